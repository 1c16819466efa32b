"""Decoded chunks in memory: those on their way into the cache, and a few that could not go there.

Place: between `fetcher` and the cache.  The kernel asks for a chunk of 512 KiB in several requests, so a
chunk must stay readable from the moment it is decoded: until the writer thread has committed it, or,
where there is no room for it in the cache, until newer ones push it out of a small ring.

Threads: any; one writer thread, started with the first chunk.  `_lock` guards everything and is never
held while the cache is written.  What waits for the writer is bounded: fetch threads wait for room, and
when the writer does not move at all for a while, chunks are served without being cached.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from zerofs.fetch.flight import is_proven

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache

logger = logging.getLogger(__name__)

MOST_PENDING = 6 << 20  # bytes that wait for the writer
MOST_RECENT = 8 << 20  # bytes of chunks that are not in the cache
BATCH_BYTES = 2 << 20  # in one transaction
BATCH_CHUNKS = 1024  # small ones: each transaction writes the pages of the trees that it changes anew
PATIENCE = 5.0  # seconds that a fetch thread waits for a writer that does not move
CLOSE_PATIENCE = 10.0  # seconds for what is queued when it ends


class MemoryStats(NamedTuple):
    """Chunks that went into the cache, and chunks that were served without."""

    cached: int
    uncached: int


class ChunkMemory:
    """See the module.  `cache` None: nothing is cached."""

    def __init__(self, cache: ChunkCache | None) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._pending: OrderedDict[bytes, bytes] = OrderedDict()
        self._pending_bytes = 0
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._writer: threading.Thread | None = None
        self._stuck = False  # the writer has not moved for a while
        self._warned = False
        self._closing = False
        self._cached = self._uncached = 0

    def find(self, name: bytes) -> bytes | None:
        """The plain bytes of a chunk, if they are here."""
        with self._lock:
            plain = self._pending.get(name)
            if plain is None and (plain := self._recent.get(name)) is not None:
                self._recent.move_to_end(name)
            return plain

    def keep(self, decoded: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the names and plain bytes of decoded chunks.  Does not wait; see `wait_for_room`."""
        with self._lock:
            pending = self._pending
            for name, plain in decoded:
                full = self._stuck and self._pending_bytes >= MOST_PENDING
                if self._cache is None or full or self._closing or not is_proven(name):
                    self._keep_recent(name, plain)
                elif name not in pending:
                    pending[name] = plain
                    self._pending_bytes += len(plain)
            if pending:
                self._start_writer()
                self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Wait until what is pending is below its bound: back-pressure for who decodes."""
        with self._lock:
            if self._has_room() or self._changed.wait_for(self._has_room, PATIENCE):
                return
            self._stuck = True
            self._changed.notify_all()
            if not self._warned:
                self._warned = True
                logger.warning("the cache takes no chunks at the moment; they are served without it")

    def stats(self) -> MemoryStats:
        with self._lock:
            return MemoryStats(self._cached, self._uncached)

    def close(self) -> None:
        """Commit what is pending and end the writer."""
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        if self._writer is not None:
            self._writer.join(CLOSE_PATIENCE)
            if self._writer.is_alive():
                logger.warning("the cache did not take %d chunks in time", len(self._pending))

    # -- under _lock -------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._closing or self._stuck or self._pending_bytes < MOST_PENDING

    def _keep_recent(self, name: bytes, plain: bytes) -> None:
        self._uncached += 1
        if (known := self._recent.pop(name, None)) is not None:
            self._recent_bytes -= len(known)
        self._recent[name] = plain
        self._recent_bytes += len(plain)
        while self._recent_bytes > MOST_RECENT and len(self._recent) > 1:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def _start_writer(self) -> None:
        if self._writer is None:
            # A daemon, so that a process that never closes this can still end.
            self._writer = threading.Thread(target=self._write, name="cache-writer", daemon=True)
            self._writer.start()

    # -- the writer thread -------------------------------------------------------------------

    def _write(self) -> None:
        assert self._cache is not None
        while batch := self._next_batch():
            try:
                stored = self._cache.put_many(batch)
                whole = stored == len(batch)
                there = [True] * stored if whole else self._cache.has_many([name for name, _ in batch])
            except Exception:
                logger.exception("the cache failed unexpectedly; %d chunks are served without it", len(batch))
                there = [False] * len(batch)
            self._finish(batch, there)

    def _next_batch(self) -> list[tuple[bytes, bytes]]:
        with self._lock:
            self._changed.wait_for(lambda: self._pending or self._closing)
            batch: list[tuple[bytes, bytes]] = []
            size = 0
            for name, plain in islice(self._pending.items(), BATCH_CHUNKS):
                size += len(plain)
                if batch and size > BATCH_BYTES:
                    break
                batch.append((name, plain))
            return batch

    def _finish(self, batch: list[tuple[bytes, bytes]], there: list[bool]) -> None:
        with self._lock:
            for (name, plain), cached in zip(batch, there, strict=True):
                del self._pending[name]
                self._pending_bytes -= len(plain)
                if cached:
                    self._cached += 1
                else:
                    self._keep_recent(name, plain)
            self._stuck = False
            self._changed.notify_all()
