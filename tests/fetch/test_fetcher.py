"""The fetcher: one flight per chunk, right bytes, and an end of all that waits."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fetch.support import CACHE_SIZE, LARGE, ROOT, FakeRouter, Make, in_threads, plain_of, until
from tests.support.golden import Golden
from tests.support.redisserver import RedisServer
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import Codec, cache_name, encode
from zerofs.errors import ChunkCorruptError, StoreError, StoreUnreachableError
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.model import Chunk


def threads_of_fetchers() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(("fetch-", "cache-writer"))}


# -- bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [Codec.SHA256_XXTEA, Codec.BLAKE2B128_XXTEA, Codec.BLAKE2B256_AESGCM])
@pytest.mark.parametrize("size", [0, 1, 3000, LARGE])
def test_a_chunk_is_read_and_comes_into_the_cache(
    router: FakeRouter, make: Make, cache: ChunkCache, codec: Codec, size: int
) -> None:
    chunk = router.add(1, size, codec)
    fetcher = make(cache)
    assert fetcher.read(chunk) == plain_of(1, size)
    until(lambda: fetcher.stats().cached == 1)
    with cache.snapshot() as snapshot:
        assert snapshot.find(cache_name(chunk.key)) == plain_of(1, size)
    assert fetcher.read(chunk) == plain_of(1, size)
    assert router.count(chunk) == 1
    assert fetcher.stats().from_cache == 1


def test_warm_data_needs_no_store(router: FakeRouter, make: Make, tmp_path: Path) -> None:
    chunks = [router.add(number) for number in range(40)]
    for attempt in range(2):
        with ChunkCache(tmp_path / "cache", size_limit=CACHE_SIZE) as cache:
            fetcher = make(cache)
            assert [fetcher.read(chunk) for chunk in chunks] == [plain_of(number) for number in range(40)]
            fetcher.close()
        assert sum(map(len, router.asked)) == 40, attempt
        router.failure = StoreUnreachableError("gone")


def test_nothing_starts_before_the_first_read(make: Make, cache: ChunkCache) -> None:
    make(cache)
    assert not threads_of_fetchers()


def test_one_flight_for_fifty_readers(router: FakeRouter, make: Make, cache: ChunkCache) -> None:
    chunk = router.add(1, LARGE)
    fetcher = make(cache)
    router.gate.clear()
    opener = threading.Thread(target=lambda: (until(lambda: fetcher.stats().joined == 49), router.gate.set()))
    opener.start()
    assert in_threads(50, lambda _: fetcher.read(chunk)) == [plain_of(1, LARGE)] * 50
    opener.join()
    assert router.count(chunk) == 1


def test_many_chunks_from_many_threads(router: FakeRouter, make: Make, cache: ChunkCache) -> None:
    chunks = [router.add(number, 100 + number * 50) for number in range(200)]
    fetcher = make(cache)
    read = in_threads(16, lambda first: [fetcher.read(chunk) for chunk in chunks[first:] + chunks[:first]])
    expected = [plain_of(number, 100 + number * 50) for number in range(200)]
    assert read == [expected[first:] + expected[:first] for first in range(16)]
    assert all(router.count(chunk) == 1 for chunk in chunks)


def test_a_payload_that_does_not_verify_is_refused_to_the_router(
    router: FakeRouter, make: Make, cache: ChunkCache
) -> None:
    chunk = router.add(1)
    good = router.payloads[chunk.id][0]
    router.payloads[chunk.id] = [good[:-4], encode(Codec.BLAKE2B128_XXTEA, b"other").payload, good]
    fetcher = make(cache)
    assert fetcher.read(chunk) == plain_of(1)
    assert fetcher.stats().verify_failures == 2
    assert fetcher.stats().failures == 0


def test_of_chunks_that_arrive_together_each_is_judged_for_itself(
    router: FakeRouter, make: Make, cache: ChunkCache
) -> None:
    fetcher = make(cache, threads=1)
    router.gate.clear()
    first = router.add(100)
    opener = threading.Thread(target=lambda: fetcher.read(first))
    opener.start()
    until(lambda: len(router.asked) == 1)  # the only thread is busy: what follows gathers
    codecs = [Codec.SHA256_XXTEA, Codec.BLAKE2B128_XXTEA, Codec.BLAKE2B256_AESGCM]
    chunks = [router.add(number, 3000 + number, codecs[number % 3]) for number in range(30)]
    healed, damaged = chunks[4], chunks[10]
    router.payloads[healed.id].insert(0, b"garbage" * 8)
    router.payloads[damaged.id] = router.payloads[chunks[13].id]
    results: list[object] = []
    reading = threading.Thread(
        target=lambda: results.extend(in_threads(30, lambda n: fetcher.read(chunks[n])))
    )
    reading.start()
    until(lambda: fetcher.stats().demanded == 31 and len(fetcher._queue) == 30)
    router.gate.set()
    opener.join()
    reading.join()
    assert isinstance(results[10], ChunkCorruptError)
    assert results[:10] + results[11:] == [plain_of(n, 3000 + n) for n in range(30) if n != 10]
    assert [len(ids) for ids in router.asked] == [1, 30]
    assert fetcher.stats().verify_failures == 2
    assert fetcher.stats().failures == 1
    assert fetcher.stats().fetched == 30


def test_every_thread_comes_where_all_are_needed_at_once(router: FakeRouter, make: Make) -> None:
    fetcher = make(None, threads=4)
    for first in (0, 100, 200):  # threads that are started, and then threads that sleep
        router.gate.clear()
        arrived = threading.Semaphore(0)
        for number in range(first, first + 4):
            fetcher.submit(router.add(number), lambda *_: arrived.release())  # noqa: B023
        # none takes what another one is free for, and a busy one keeps nobody from being woken
        assert all(router.entered.acquire(timeout=20) for _ in range(4))
        router.gate.set()
        assert all(arrived.acquire(timeout=20) for _ in range(4))
        until(lambda: fetcher._crew.idle == 4)
    assert [len(ids) for ids in router.asked] == [1] * 12


# -- the end -------------------------------------------------------------------------------


def test_closing_ends_readers_and_threads_and_commits(router: FakeRouter, make: Make, tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=CACHE_SIZE) as cache:
        fetcher = make(cache)
        done = [router.add(number, 50_000) for number in range(60)]
        assert in_threads(60, lambda n: fetcher.read(done[n])) == [plain_of(n, 50_000) for n in range(60)]
        router.gate.clear()
        waiting = [router.add(number) for number in range(100, 110)]
        before = fetcher.stats().demanded
        results: list[list[object]] = []
        readers = threading.Thread(
            target=lambda: results.append(in_threads(10, lambda n: fetcher.read(waiting[n])))
        )
        readers.start()
        until(lambda: fetcher.stats().demanded == before + 10 and len(fetcher._flights.of_chunk) == 10)
        closer = threading.Thread(target=fetcher.close)
        closer.start()
        readers.join()
        assert all(isinstance(result, StoreError) for result in results[0])
        router.gate.set()
        closer.join()
        assert not threads_of_fetchers()
        with pytest.raises(StoreError, match="coming down"):
            fetcher.read(router.add(200))
        with cache.snapshot() as snapshot:
            assert all(snapshot.find(cache_name(chunk.key)) is not None for chunk in done)


def test_a_process_ends_even_if_the_store_never_answers_and_nobody_closes(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from tests.fetch.support import FakeRouter
from zerofs.cache.lmdb import ChunkCache
from zerofs.errors import StoreTimeoutError
from zerofs.fetch.fetcher import Fetcher
router = FakeRouter(); router.gate.clear()
fetcher = Fetcher(router, ChunkCache(Path(sys.argv[1]), size_limit=1 << 20), timeout=0.1)
try:
    fetcher.read(router.add(1))
except StoreTimeoutError:
    print("timed out")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "timed out\n" and done.stderr == ""


# -- real parts ----------------------------------------------------------------------------


def test_golden_chunks_from_a_real_redis(
    golden_flist: Golden, redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    import hashlib
    import json

    from tests.chunk.raw_flist import files
    from zerofs.store.build import build_router

    server = redis_server()
    server.load(golden_flist.chunks())
    router = build_router(None, [], [], server.url)
    rows = [row for row in map(json.loads, golden_flist.manifest()) if row["kind"] == "file"]
    with ChunkCache(tmp_path / "cache", size_limit=CACHE_SIZE) as cache:
        fetcher = Fetcher(router, cache, timeout=20)
        seen = {}
        for path, chunks in files(golden_flist.flist):
            plain = b"".join(fetcher.read(Chunk(chunk_id, key, LARGE)) for chunk_id, key in chunks)
            seen[path] = hashlib.sha256(plain).hexdigest()
        fetcher.close()
        assert seen == {row["path"]: row["sha256"] for row in rows}
        assert fetcher.stats().failures == 0
        assert cache.stats().entries == fetcher.stats().fetched
    router.close()
    server.stop()


def test_a_flipped_bit_in_the_cache_is_fetched_again(router: FakeRouter, make: Make, tmp_path: Path) -> None:
    from tests.cache.support import flip

    chunk = router.add(1, LARGE)
    with ChunkCache(tmp_path, size_limit=CACHE_SIZE) as cache:
        fetcher = make(cache)
        fetcher.read(chunk)
        fetcher.close()
    data = tmp_path / "data.mdb"
    flip(data, data.read_bytes().index(plain_of(1, LARGE)[:64]) + 5000)
    with ChunkCache(tmp_path, size_limit=CACHE_SIZE) as cache:
        fetcher = make(cache)
        assert fetcher.read(chunk) == plain_of(1, LARGE)
        fetcher.close()
        assert router.count(chunk) == 2
        assert cache.stats().damaged >= 1
        with cache.snapshot() as snapshot:
            assert snapshot.find(cache_name(chunk.key)) == plain_of(1, LARGE)
