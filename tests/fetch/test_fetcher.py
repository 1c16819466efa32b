"""The fetcher: one flight per chunk, an end to every wait, and bytes that stay readable."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.fetch.support import LARGE, FakeRouter, in_threads, plain_of, until
from tests.support.golden import Golden
from tests.support.redisserver import RedisServer
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import Codec, cache_name, encode
from zerofs.errors import (
    ChunkCorruptError,
    ChunkError,
    ChunkMissingError,
    ChunkUnverifiableError,
    StoreError,
    StoreTimeoutError,
    StoreUnreachableError,
    ZerofsError,
)
from zerofs.fetch import failures as failures_module
from zerofs.fetch import memory as memory_module
from zerofs.fetch.background import Background
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.model import Chunk

SIZE = 64 << 20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    made = FakeRouter()
    yield made
    made.gate.set()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ChunkCache]:
    with ChunkCache(tmp_path / "cache", size_limit=SIZE) as opened:
        yield opened


@pytest.fixture
def make(router: FakeRouter) -> Iterator[Callable[..., Fetcher]]:
    """Makes fetchers on `router` and closes them."""
    made: list[Fetcher] = []

    def new(cache: ChunkCache | None = None, **options: object) -> Fetcher:
        options.setdefault("background", Background())
        made.append(Fetcher(router, cache, **options))  # type: ignore[arg-type]
        return made[-1]

    yield new
    router.gate.set()
    for fetcher in made:
        fetcher.close()


Make = Callable[..., Fetcher]


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
        with ChunkCache(tmp_path / "cache", size_limit=SIZE) as cache:
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


@pytest.mark.parametrize("share", [0, 1])
def test_chunks_that_are_not_cached_stay_readable_for_the_next_requests(
    router: FakeRouter, make: Make, tmp_path: Path, share: int
) -> None:
    """The kernel reads a chunk of 512 KiB in four requests."""
    chunks = [router.add(number, LARGE) for number in range(30)]
    with ChunkCache(tmp_path, size_limit=1 << 20) as cache:
        # the first one stays, and no other finds room
        cache._environment.pins.is_pinned = lambda: lambda name: True  # type: ignore[method-assign]
        fetcher = make(cache if share else None)
        for number, chunk in enumerate(chunks):
            for _ in range(4):
                assert fetcher.read(chunk) == plain_of(number, LARGE)
                until(lambda: fetcher.stats().cached + fetcher.stats().uncached > number)  # noqa: B023
        assert [router.count(chunk) for chunk in chunks] == [1] * 30
        fetcher.close()
        stats = fetcher.stats()
        assert stats.cached == share and stats.uncached == 30 - share
        held = sum(map(len, fetcher._memory._recent.values()))
        assert held <= memory_module.MOST_RECENT


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
        until(lambda: fetcher._idle == 4)
    assert [len(ids) for ids in router.asked] == [1] * 12


# -- failures ------------------------------------------------------------------------------


def test_each_failure_has_its_own_error(router: FakeRouter, make: Make, cache: ChunkCache) -> None:
    fetcher = make(cache)
    missing = Chunk(b"i" * 16, b"k" * 16, 100)
    with pytest.raises(ChunkMissingError):
        fetcher.read(missing)
    corrupt = router.add(1)
    router.payloads[corrupt.id] = [b"garbage" * 8]
    with pytest.raises(ChunkCorruptError):
        fetcher.read(corrupt)
    longer = router.add(2)._replace(size=10)
    with pytest.raises(ChunkCorruptError):
        fetcher.read(longer)
    router.failure = StoreUnreachableError("redis://a.example:6379: refused", hint="look there")
    with pytest.raises(StoreUnreachableError, match=r"a\.example") as caught:
        fetcher.read(router.add(3))
    assert caught.value.hint == "look there"
    assert fetcher.stats().failures == 4
    fetcher.close()
    assert cache.stats().entries == 0


def test_a_failure_is_remembered_for_the_second_read(
    router: FakeRouter, make: Make, cache: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = router.add(1)
    payload = router.payloads.pop(chunk.id)
    fetcher = make(cache)
    for _ in range(2):
        with pytest.raises(ChunkMissingError):
            fetcher.read(chunk)
    assert router.count(chunk) == 1
    assert fetcher.stats().remembered_failures == 1
    router.payloads[chunk.id] = payload
    with pytest.raises(ChunkMissingError):
        fetcher.read(chunk)
    now = failures_module.time.monotonic()
    monkeypatch.setattr(failures_module.time, "monotonic", lambda: now + failures_module.MEMORY + 0.1)
    assert fetcher.read(chunk) == plain_of(1)


def test_a_failure_of_one_place_does_not_speak_for_another(router: FakeRouter, make: Make) -> None:
    chunk = router.add(1)
    fetcher = make()
    with pytest.raises(ChunkMissingError):
        fetcher.read(chunk._replace(id=b"elsewhere"))
    with pytest.raises(ChunkCorruptError):
        fetcher.read(chunk._replace(size=1))
    assert fetcher.read(chunk) == plain_of(1)


def test_failures_that_are_remembered_are_bounded(
    router: FakeRouter, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures_module, "MOST", 10)
    fetcher = make()
    for number in range(30):
        with pytest.raises(ChunkMissingError):
            fetcher.read(Chunk(number.to_bytes(16, "big"), bytes(16), 100))
    assert len(fetcher._failures) == 10


def test_a_store_that_never_answers_ends_the_wait(router: FakeRouter, make: Make, cache: ChunkCache) -> None:
    chunk = router.add(1)
    router.gate.clear()
    fetcher = make(cache, timeout=0.2, threads=1)
    results = in_threads(5, lambda _: fetcher.read(chunk))
    assert all(isinstance(result, StoreTimeoutError) for result in results)
    with pytest.raises(StoreTimeoutError):
        fetcher.read(chunk)
    assert fetcher.stats().remembered_failures >= 1
    with pytest.raises(StoreTimeoutError):
        fetcher.read(router.add(2))  # all threads are held up, and still it ends
    router.gate.set()
    until(lambda: fetcher.stats().cached >= 1)
    assert fetcher.read(chunk) == plain_of(1), "what came late is kept"


def test_the_deadline_belongs_to_the_chunk(router: FakeRouter, make: Make) -> None:
    chunk = router.add(1)
    router.gate.clear()
    fetcher = make(timeout=5)
    first = threading.Thread(target=lambda: in_threads(1, lambda _: fetcher.read(chunk)))
    first.start()
    router.entered.acquire()
    flight = fetcher._flights[chunk]
    flight.deadline -= 5  # as if the first reader had come five seconds earlier
    with pytest.raises(StoreTimeoutError):
        fetcher.read(chunk)
    first.join()


def test_an_unverifiable_chunk_is_refused_or_served_but_never_cached(
    router: FakeRouter, make: Make, cache: ChunkCache
) -> None:
    from zerofs._fast import xxtea_encrypt
    from zerofs.chunk.snappy import compress

    key = b"no known hash"
    for name in (b"one", b"two"):
        router.payloads[name] = [xxtea_encrypt(compress(name), key.ljust(16, b"\0"))]
    with pytest.raises(ChunkUnverifiableError):
        make(cache).read(Chunk(b"one", key, 100))
    fetcher = make(cache, allow_unverified=True)
    for _ in range(2):
        assert fetcher.read(Chunk(b"one", key, 100)) == b"one"
        assert fetcher.read(Chunk(b"two", key, 100)) == b"two", "an equal key proves nothing"
    fetcher.close()
    assert fetcher.stats().uncached == 2
    assert cache.stats().entries == 0


class Broken(FakeRouter):
    """A router with a fault of its own."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    def fetch_batches(
        self,
        ids: Sequence[bytes],
        judge: Callable[[Sequence[tuple[int, bytes]]], Sequence[ChunkError | None]],
        fail: Callable[[int, ZerofsError], None],
        deadline: float,
        *,
        hedged: bool = True,
    ) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), StoreUnreachableError("down"), None])
def test_a_router_that_breaks_its_promise_fails_the_read(error: Exception | None) -> None:
    router = Broken(error)
    fetcher = Fetcher(router, None, threads=1)
    for number in range(3):
        with pytest.raises(StoreError):
            fetcher.read(router.add(number))
    fetcher.close()


# -- the end -------------------------------------------------------------------------------


def test_closing_ends_readers_and_threads_and_commits(router: FakeRouter, make: Make, tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
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
        until(lambda: fetcher.stats().demanded == before + 10 and len(fetcher._flights) == 10)
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


# -- the background ------------------------------------------------------------------------


def test_what_is_requested_comes_into_the_cache(router: FakeRouter, make: Make, cache: ChunkCache) -> None:
    chunks = [router.add(number, 20_000) for number in range(50)]
    fetcher = make(cache)
    fetcher.read(chunks[0])
    assert fetcher.request(chunks) >= 49
    until(lambda: fetcher.stats().cached == 50)
    assert all(router.count(chunk) == 1 for chunk in chunks)
    assert fetcher.stats().demanded == 1


def test_a_failure_in_the_background_is_not_remembered(
    router: FakeRouter, make: Make, cache: ChunkCache
) -> None:
    chunk = router.add(1)
    payload = router.payloads.pop(chunk.id)
    fetcher = make(cache)
    fetcher.request([chunk])
    until(lambda: fetcher.stats().failures == 1)
    router.payloads[chunk.id] = payload
    assert fetcher.read(chunk) == plain_of(1)


def test_a_reader_finds_a_free_thread_however_much_is_requested(
    router: FakeRouter, make: Make, cache: ChunkCache
) -> None:
    fetcher = make(cache, threads=1)
    ahead = [router.add(number, LARGE) for number in range(24)]
    wanted = router.add(1000)
    router.gate.clear()
    fetcher.request(ahead)
    router.entered.acquire()
    reader = threading.Thread(target=lambda: in_threads(1, lambda _: fetcher.read(wanted)))
    reader.start()
    assert router.entered.acquire(timeout=20), "the reader waits behind the background"
    assert router.asked[1] == [wanted.id]
    router.gate.set()
    reader.join()


def test_a_reader_takes_over_what_is_requested_but_not_begun(
    router: FakeRouter, make: Make, cache: ChunkCache
) -> None:
    fetcher = make(cache, threads=2)
    ahead = [router.add(number, LARGE) for number in range(40)]
    router.gate.clear()
    fetcher.request(ahead)
    router.entered.acquire()
    reader = threading.Thread(target=lambda: in_threads(1, lambda _: fetcher.read(ahead[-1])))
    reader.start()
    assert router.entered.acquire(timeout=20)
    assert router.asked[1] == [ahead[-1].id]
    router.gate.set()
    reader.join()
    until(lambda: fetcher.stats().cached == 40)
    assert all(router.count(chunk) == 1 for chunk in ahead)


# -- the writer ----------------------------------------------------------------------------


class SlowCache:
    """A cache whose writes wait for a test."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate = threading.Event()
        self.error = error
        self.batches: list[int] = []

    def snapshot(self) -> SlowCache:
        return self

    def __enter__(self) -> SlowCache:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_many(self, names: Sequence[bytes]) -> list[None]:
        return [None] * len(names)

    def put_many(self, entries: Sequence[tuple[bytes, bytes]]) -> int:
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(len(entries))
        return len(entries)


def test_a_slow_cache_holds_the_fetchers_back_instead_of_filling_the_memory(
    router: FakeRouter, make: Make
) -> None:
    slow = SlowCache()
    fetcher = make(slow, threads=2)
    chunks = [router.add(number, LARGE) for number in range(40)]
    readers = threading.Thread(target=lambda: in_threads(40, lambda n: fetcher.read(chunks[n])))
    readers.start()
    until(lambda: fetcher._memory._pending_bytes >= memory_module.MOST_PENDING)
    slow.gate.set()
    readers.join()
    fetcher.close()
    assert fetcher.stats().cached == 40
    assert max(slow.batches) * LARGE <= memory_module.BATCH_BYTES


def test_a_cache_that_takes_nothing_is_done_without(
    router: FakeRouter, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_module, "PATIENCE", 0.05)
    slow = SlowCache()
    fetcher = make(slow)
    chunks = [router.add(number, LARGE) for number in range(60)]
    assert [fetcher.read(chunk) for chunk in chunks] == [plain_of(number, LARGE) for number in range(60)]
    memory = fetcher._memory
    assert memory._pending_bytes <= memory_module.MOST_PENDING + 4 * LARGE
    assert memory._recent_bytes <= memory_module.MOST_RECENT
    assert caplog.text.count("takes no chunks") == 1
    slow.gate.set()
    fetcher.close()
    assert fetcher.stats().cached > 0


def test_a_cache_that_fails_unexpectedly_is_done_without(router: FakeRouter, make: Make) -> None:
    slow = SlowCache(RuntimeError("a bug"))
    slow.gate.set()
    fetcher = make(slow)
    for number in range(5):
        assert fetcher.read(router.add(number)) == plain_of(number)
    until(lambda: fetcher.stats().uncached == 5)
    assert fetcher.stats().cached == 0


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
    with ChunkCache(tmp_path / "cache", size_limit=SIZE) as cache:
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
    from tests.cache.test_cache_faults import flip

    chunk = router.add(1, LARGE)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        fetcher = make(cache)
        fetcher.read(chunk)
        fetcher.close()
    data = tmp_path / "data.mdb"
    flip(data, data.read_bytes().index(plain_of(1, LARGE)[:64]) + 5000)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        fetcher = make(cache)
        assert fetcher.read(chunk) == plain_of(1, LARGE)
        fetcher.close()
        assert router.count(chunk) == 2
        assert cache.stats().damaged >= 1
        with cache.snapshot() as snapshot:
            assert snapshot.find(cache_name(chunk.key)) == plain_of(1, LARGE)


READ_ALL = """
import sys
from pathlib import Path
from tests.fetch.support import FakeRouter, LARGE, plain_of
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import Codec, cache_name, encode
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.model import Chunk

class Encoding(FakeRouter):
    def fetch_batches(self, ids, judge, fail, deadline, *, hedged=True):
        for index, number in enumerate(ids):
            judge([(index, encode(Codec.BLAKE2B128_XXTEA, plain_of(int(number), LARGE)).payload)])

def own():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon"))

import hashlib
keys = [hashlib.blake2b(plain_of(n, LARGE), digest_size=16).digest() for n in range(160)]
with ChunkCache(Path(sys.argv[1]), size_limit=1 << 30) as cache:
    fetcher = Fetcher(Encoding(), cache)
    for n, key in enumerate(keys):
        fetcher.read(Chunk(b"%d" % n, key, LARGE))
    fetcher.close()
    for key in keys:
        with cache.snapshot() as snapshot:
            assert snapshot.find(cache_name(key)) is not None
    print(own())
"""


def test_own_memory_stays_small_after_reading_a_lot(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 40 * 1024, "KiB of its own"
