"""A mount of what is cached that checks the bytes on their way into the chunk table, or does not.

``python -m zerofs.bench.unverified CHECKS CACHE FLIST MOUNTPOINT``, where CHECKS is ``checked`` or ``unchecked``.
For one comparison: no mount of users can be told to trust its cache.  The engine and the cache are those of zerofs,
but its compiled walk of LMDB's pages, which always checks, is not taken: the engine asks a snapshot instead, which
costs some microseconds a chunk, the same in both.  The checksum is the one of the cache's entries, over the mapping
that the kernel reads from, as in a mount; what is missing is an I/O error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xxhash

from zerofs._fast import WorkingSet
from zerofs.bench.donothing import serve
from zerofs.cache.lmdb import ChunkCache, Snapshot
from zerofs.cli.guard import guarded
from zerofs.flist.load import load_flist

CHECKED, UNCHECKED = "checked", "unchecked"


class Cached:
    """Stands before the chunk cache."""

    def __init__(self, cache: ChunkCache, *, checks: bool) -> None:
        self._cache = cache
        self._checks = checks

    def working_set(self) -> WorkingSet:
        return self._cache.working_set()

    def snapshot(self) -> _Snapshot:
        return _Snapshot(self._cache.snapshot(), checks=self._checks)

    def await_shortage(self, seen: int, seconds: float) -> int:
        return self._cache.await_shortage(seen, seconds)

    def wake(self) -> None:
        self._cache.wake()


class _Snapshot:
    def __init__(self, snapshot: Snapshot, *, checks: bool) -> None:
        self._snapshot = snapshot
        self._checks = checks

    def tree(self) -> None:
        """Nothing is walked."""

    def find(self, name: bytes, *, verify: bool = True) -> memoryview | None:
        plain = self._snapshot.find(name, verify=False)
        if plain is not None and verify and self._checks:
            xxhash.xxh3_64_intdigest(plain)
        return plain

    def release(self) -> None:
        self._snapshot.release()


def _run(checks: str, cache: Path, flist: str, mountpoint: Path) -> int:
    index = load_flist(flist, cache / "flists").index
    with ChunkCache(cache, size_limit=None) as opened:
        serve(index, Cached(opened, checks=checks == CHECKED), mountpoint, "unverified")
    return 0


if __name__ == "__main__":
    _checks, _cache, _flist, _mountpoint = sys.argv[1:]
    sys.exit(
        guarded("unverified", lambda: _run(_checks, Path(_cache), _flist, Path(_mountpoint)), debug=False)
    )
