"""How fast chunks come from a store, without a mount: against what Redis' own benchmark moves, and into the cache.

Role: the two measurements of the fetch suite that no file system can be compared in.  The threads of both are those of
a mount: a few that take batches, with one connection pool between them.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zerofs.bench import host
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.batch import encode_many
from zerofs.chunk.codec import Codec, cache_name
from zerofs.errors import ChunkError, StoreError, ZerofsError
from zerofs.fetch.fetcher import Fetcher
from zerofs.fetch.flight import MOST_BYTES
from zerofs.flist.model import Chunk
from zerofs.store.base import Payload, Store, open_store
from zerofs.store.build import build_router
from zerofs.store.router import Router
from zerofs.store.url import parse_store_url

LARGE = 512 * 1024  # bytes
SMALL = 1024  # bytes
SMALL_CHUNKS = 10_000
_LARGE_CHUNKS = 256
_PASSES = 4  # over the large ones: one is too short to be timed
_THREADS = 4
_BATCH = MOST_BYTES // LARGE  # as a mount takes them
_PATIENCE = 60.0  # seconds


class Wire:
    """Chunks put into the Redis at `store` once, to be fetched again and again."""

    def __init__(self, store: str) -> None:
        self._store = store
        chance = random.Random(1)
        with _opened(store) as target:
            self._large = [chance.randbytes(16) for _ in range(_LARGE_CHUNKS)]
            for start in range(0, _LARGE_CHUNKS, _BATCH):
                ids = self._large[start : start + _BATCH]
                target.put_many([(id_, chance.randbytes(LARGE)) for id_ in ids], _deadline())
            plains = [chance.randbytes(SMALL) for _ in range(SMALL_CHUNKS)]
            encoded = encode_many(Codec.BLAKE2B128_XXTEA, plains)
            target.put_many([(chunk.id, chunk.payload) for chunk in encoded], _deadline())
            self._small = [Chunk(chunk.id, chunk.key, SMALL) for chunk in encoded]

    def against_redis_benchmark(self) -> float:
        """How many times as long as ``redis-benchmark -P 8 -c 4`` our router takes for 512 KiB, undecoded."""
        theirs = _redis_benchmark(self._store)
        with _routed(self._store) as router:
            self._fetch_large(router)  # which connects
            begin = time.perf_counter()
            self._fetch_large(router)
            ours = _LARGE_CHUNKS * _PASSES / (time.perf_counter() - begin)
        return theirs / ours

    def _fetch_large(self, router: Router) -> None:
        starts = iter(range(0, _LARGE_CHUNKS * _PASSES, _BATCH))
        lock = threading.Lock()
        missed: list[ZerofsError] = []

        def work() -> None:
            while True:
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                at = start % _LARGE_CHUNKS
                router.fetch_batches(
                    self._large[at : at + _BATCH], _take, lambda _, error: missed.append(error), _deadline()
                )

        threads = [threading.Thread(target=work) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if missed:
            raise missed[0]

    def small_into_the_cache(self, workdir: Path) -> float:
        """Seconds for `SMALL_CHUNKS` chunks of 1 KiB, from the store until they are verified and in the cache."""
        with tempfile.TemporaryDirectory(dir=workdir) as directory, _routed(self._store) as router:
            cache = ChunkCache(Path(directory), size_limit=256 << 20)
            begin = time.perf_counter()
            fetcher = Fetcher(router, cache, timeout=_PATIENCE)
            arrived, all_here = itertools.count(1), threading.Event()

            def done(*_: object) -> None:
                if (
                    next(arrived) == SMALL_CHUNKS
                ):  # which costs next to nothing, so that the fetcher is measured
                    all_here.set()

            for chunk in self._small:
                fetcher.submit(chunk, done)
            all_here.wait(_PATIENCE)
            fetcher.close()
            took = time.perf_counter() - begin
            there = sum(cache.has_many([cache_name(chunk.key) for chunk in self._small]))
            cache.close()
        if there != SMALL_CHUNKS:
            raise StoreError(f"{there} chunks in the cache instead of {SMALL_CHUNKS}")
        return took


def _take(arrived: Sequence[tuple[int, Payload]]) -> list[ChunkError | None]:
    return [None] * len(arrived)


@contextmanager
def _opened(store: str) -> Iterator[Store]:
    opened = open_store(parse_store_url(store))
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _routed(store: str) -> Iterator[Router]:
    router = build_router(None, [], [], store)
    try:
        yield router
    finally:
        router.close()


def _deadline() -> float:
    return time.monotonic() + _PATIENCE


def _redis_benchmark(store: str) -> float:
    """GETs of 512 KiB a second."""
    url = parse_store_url(store)
    said = host.command(
        *("redis-benchmark", "-h", str(url.host), "-p", str(url.port), "-t", "set,get", "--csv"),
        *("-d", str(LARGE), "-P", "8", "-c", "4", "-n", str(_LARGE_CHUNKS * _PASSES)),
    )
    for line in said.splitlines():
        fields = [field.strip('"') for field in line.split(",")]
        if fields[0] == "GET":
            return float(fields[1])
    raise StoreError("redis-benchmark does not tell how many GETs a second it made")
