"""What a destination was asked and what it gave: the counters of one store of a router.

Place: kept by `destination`, read by whoever wants to know how a mount fares.  Threads: any; `_lock` guards all
fields and is held for arithmetic only, once for each batch of answers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from zerofs.errors import StoreError
from zerofs.histogram import Histogram
from zerofs.store.base import Found, Payload


class Traffic:
    """Counts since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("requests", "chunks", "bytes", "missing", "errors", "retries", "written", "written_bytes"), 0
        )
        self._first_answers = Histogram()

    def asked(self, again: int = 0) -> None:
        """One request went out; for `again` of its chunks this destination failed before."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["retries"] += again

    def answered(self, batch: Sequence[Found], *, first_after: float | None) -> int:
        """Answers came, `first_after` seconds after their request where they are its first; their bytes."""
        payloads = [len(found) for found in batch if found is not None and not isinstance(found, StoreError)]
        size = sum(payloads)
        missing = batch.count(None)
        with self._lock:
            self._counts["chunks"] += len(payloads)
            self._counts["bytes"] += size
            self._counts["missing"] += missing
            self._counts["errors"] += len(batch) - len(payloads) - missing
            if first_after is not None:
                self._first_answers.add(first_after)
        return size

    def failed(self) -> None:
        """A request, or a write, ended in an error."""
        with self._lock:
            self._counts["errors"] += 1

    def wrote(self, items: Sequence[tuple[bytes, Payload]]) -> None:
        """Chunks were written, as into a cache pool."""
        with self._lock:
            self._counts["written"] += len(items)
            self._counts["written_bytes"] += sum(len(payload) for _, payload in items)

    def as_dict(self) -> dict[str, object]:
        """The counters, and `latency`: seconds from a request to its first answer."""
        with self._lock:
            return {**self._counts, "latency": self._first_answers.as_dict()}
