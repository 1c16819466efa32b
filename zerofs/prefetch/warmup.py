"""Fetching a known set of chunks into the cache, as fast as the stores give them or at a rate.

Role: the work of `zerofs warmup`.  The fetcher's queue is kept filled to a window, so that its threads take large
batches and small chunks cost a share of a round trip each.

Threads: the caller's, which waits; the fetcher's threads tell of each chunk.  `_changed` guards the counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from zerofs.errors import ChunkError, ChunkMissingError, ZerofsError

if TYPE_CHECKING:
    from zerofs.fetch.fetcher import Fetcher
    from zerofs.flist.index import Index

WINDOW_BYTES = 32 << 20  # plain bytes on their way
WINDOW_CHUNKS = 1024
_TICK = 1.0  # seconds after which a late chunk is noticed


class WarmUp:
    """Fetches chunks of `tree` by `fetcher`, at most `rate` plain bytes a second (None: no bound).

    `advance` is told the plain bytes of each chunk that has come, by any thread.
    """

    def __init__(
        self,
        tree: Index,
        fetcher: Fetcher,
        *,
        advance: Callable[[int], object],
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = tree
        self._fetcher = fetcher
        self._advance = advance
        self._rate = rate
        self._clock = clock
        self._changed = threading.Condition()
        self._chunks = self._bytes = 0  # on their way
        self._stopped = False
        self.fetched = 0  # chunks
        self.failures: list[ZerofsError] = []

    def run(self, numbers: Iterable[int]) -> None:
        """Fetch the chunks and wait for them.

        A chunk that cannot be had is noted in `failures`; where it is the store that fails, no more are asked for.
        """
        due = self._clock()
        for number in numbers:
            chunk = self._tree.chunk(number)
            self._wait_for(lambda size=chunk.size: self._has_room(size))  # type: ignore[misc]
            if self._rate is not None:
                due = max(due, self._clock())
                self._wait_for(lambda: self._stopped, until=due)
                due += chunk.size / self._rate
            if self._stopped:
                break
            with self._changed:
                self._chunks += 1
                self._bytes += chunk.size
            self._fetcher.submit(chunk, self._told(chunk.size))
        self._wait_for(lambda: self._chunks == 0)

    def _told(self, size: int) -> Callable[[bytes | None, ZerofsError | None], None]:
        def done(plain: bytes | None, error: ZerofsError | None) -> None:
            with self._changed:
                self._chunks -= 1
                self._bytes -= size
                if error is None:
                    self.fetched += 1
                else:
                    self.failures.append(error)
                    self._stopped |= not isinstance(error, ChunkError | ChunkMissingError)
                self._changed.notify_all()
            if error is None:
                self._advance(size)

        return done

    def _has_room(self, size: int) -> bool:
        return self._stopped or (
            self._chunks < WINDOW_CHUNKS and (self._bytes == 0 or self._bytes + size <= WINDOW_BYTES)
        )

    def _wait_for(self, condition: Callable[[], bool], *, until: float = float("inf")) -> None:
        """Wait for what the fetcher's threads bring about, or for a time; late chunks are ended meanwhile."""
        while True:
            with self._changed:
                left = until - self._clock()
                if left <= 0 or self._changed.wait_for(condition, min(left, _TICK)):
                    return
            self._fetcher.expire()
