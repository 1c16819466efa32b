"""What a fetcher does with what it cannot have: errors, memory of them, deadlines."""

from __future__ import annotations

import threading

import pytest

from tests.fetch.support import FakeRouter, Make, in_threads, plain_of, until
from zerofs.cache.lmdb import ChunkCache
from zerofs.errors import (
    ChunkCorruptError,
    ChunkMissingError,
    ChunkUnverifiableError,
    StoreError,
    StoreTimeoutError,
    StoreUnreachableError,
)
from zerofs.fetch import failures as failures_module
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.model import Chunk


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
    assert len(fetcher._flights.failures) == 10


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
    flight = fetcher._flights.of_chunk[chunk]
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

    def fetch_batches(self, *_: object, **__: object) -> None:
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
