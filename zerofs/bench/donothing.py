"""The floor: a FUSE server on the fast engine that has nothing to do.

``python -m zerofs.bench.donothing STATE FLIST MOUNTPOINT`` mounts the tree of a flist whose every byte is zero.
The engine is the one that zerofs mounts with; in place of the chunk cache stands a memory file that is mapped
and present before the mount is announced.  What it takes to read from here is what the kernel, its protocol and one
copy out of memory take: nobody who serves by this engine can be faster.

Threads: the main thread waits for the end, the engine's answer.  Chunks share the memory file where the tree is
larger; it is larger than a processor's caches, so that bytes come from memory as they do from a mapped cache.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from zerofs._fast import Recency, WorkingSet
from zerofs.bench.subjects import READY
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import cache_name
from zerofs.cli.guard import guarded
from zerofs.errors import StoreUnreachableError, ZerofsError
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.index import Index
from zerofs.flist.load import load_flist
from zerofs.flist.model import Chunk
from zerofs.mount.engine import Served
from zerofs.mount.failures import FailureLog
from zerofs.mount.fast_engine import FastEngine

_MOST = 256 << 20  # bytes of memory
_PAGE = mmap.PAGESIZE


class Zeros:
    """Stands where the chunk cache stands, and has every chunk of one tree: views of a memory file."""

    def __init__(self, index: Index) -> None:
        self._recency = Recency()
        chunks = [index.chunk(number) for number in range(index.chunk_count)]
        largest = max((chunk.size for chunk in chunks), default=0)
        total = sum(_rounded(chunk.size) for chunk in chunks)
        size = max(min(total, _MOST), _rounded(largest), _PAGE)
        self._memory = _memory(size)
        self._spans: dict[bytes, tuple[int, int]] = {}
        at = 0
        for chunk in chunks:
            if at + chunk.size > size:
                at = 0
            self._spans[cache_name(chunk.key)] = (at, at + chunk.size)
            at += _rounded(chunk.size)

    def working_set(self) -> WorkingSet:
        """Nobody asks what was used."""
        return WorkingSet(self._recency)

    def snapshot(self) -> Zeros:
        """It never changes, so it is its own snapshot."""
        return self

    def tree(self) -> None:
        """There is no LMDB here."""

    def find(self, name: bytes, *, verify: bool = True) -> memoryview | None:
        """The chunk called `name`."""
        begin, end = self._spans[name]
        return self._memory[begin:end]

    def await_shortage(self, seen: int, seconds: float) -> int:
        """It never needs a page back: waits until `wake`."""
        return self._recency.await_asked(seen, seconds)

    def wake(self) -> None:
        """End `await_shortage`."""
        self._recency.ask()

    def release(self) -> None:
        """End of a snapshot."""


class NoFetcher:
    """Stands where the fetcher stands, and is never needed."""

    def submit(self, chunk: Chunk, arrived: Callable[[bytes | None, ZerofsError | None], None]) -> None:
        arrived(None, StoreUnreachableError("there is no store"))

    def expire(self) -> None:
        """No read waits."""


def _rounded(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _memory(size: int) -> memoryview:
    descriptor = os.memfd_create("zeros", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size)
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        return memoryview(mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


def serve(index: Index, cache: object, mountpoint: Path, name: str) -> None:
    """Mount `index` by the fast engine, every chunk of it from `cache`, until a signal or an unmount ends it."""
    served = Served(
        tree=index,
        cache=cast(ChunkCache, cache),
        fetcher=cast(Fetcher, NoFetcher()),
        failures=FailureLog(),
    )
    options = {"ro", "default_permissions", f"fsname={name}", f"subtype={name}"}
    if os.geteuid() == 0:
        options.add("allow_other")
    engine = FastEngine(served, mountpoint, options)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: engine.unmount())
        engine.start()
        os.write(1, READY)
        _await(engine.ended)
    finally:
        engine.unmount()
        engine.close()


def _await(event: int) -> None:
    while True:
        try:
            os.eventfd_read(event)
        except InterruptedError:  # by the signal that ends it
            continue
        return


def _run(state: Path, flist: str, mountpoint: Path) -> int:
    index = load_flist(flist, state).index
    serve(index, Zeros(index), mountpoint, "do-nothing")
    return 0


if __name__ == "__main__":
    _state, _flist, _mountpoint = sys.argv[1:]
    sys.exit(guarded("do-nothing", lambda: _run(Path(_state), _flist, Path(_mountpoint)), debug=False))
