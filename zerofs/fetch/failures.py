"""What could not be had lately: answered from memory for a few seconds, because the kernel sends a failing read twice.

Guarded by the fetcher's lock.
"""

from __future__ import annotations

import time

from zerofs.errors import ZerofsError
from zerofs.flist.model import Chunk

MEMORY = 3.0  # seconds
MOST = 4096  # remembered at a time


class Failures:
    """The errors that readers got, by chunk."""

    def __init__(self) -> None:
        self._errors: dict[Chunk, tuple[float, ZerofsError]] = {}  # until when, what

    def __len__(self) -> int:
        return len(self._errors)

    def remember(self, chunk: Chunk, error: ZerofsError) -> None:
        """Nothing is remembered where there are too many."""
        now = time.monotonic()
        if len(self._errors) >= MOST:
            self._errors = {key: value for key, value in self._errors.items() if value[0] > now}
        if len(self._errors) < MOST:
            self._errors[chunk] = (now + MEMORY, error)

    def recall(self, chunk: Chunk) -> ZerofsError | None:
        """What went wrong lately, if that is still to be believed."""
        if not self._errors:
            return None
        until, error = self._errors.get(chunk, (0.0, None))
        if error is not None and time.monotonic() >= until:
            del self._errors[chunk]
            return None
        return error

    def forget(self, chunk: Chunk) -> None:
        """It is here."""
        if self._errors:
            self._errors.pop(chunk, None)
