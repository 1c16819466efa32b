"""What is fetched before anybody waits for it, beside what readers wait for."""

from __future__ import annotations

import threading

import pytest

from tests.fetch.support import LARGE, FakeRouter, Make, in_threads, plain_of, until
from zerofs.cache.lmdb import ChunkCache
from zerofs.fetch import flight


def test_what_is_requested_comes_into_the_cache(router: FakeRouter, make: Make, cache: ChunkCache) -> None:
    chunks = [router.add(number, 20_000) for number in range(50)]
    fetcher = make(cache)
    fetcher.read(chunks[0])
    assert fetcher.request(chunks) >= 49
    until(lambda: fetcher.stats().cached == 50)
    assert all(router.count(chunk) == 1 for chunk in chunks)
    assert fetcher.stats().demanded == 1


def test_more_than_can_be_queued_is_not_accepted_and_what_is_comes(
    router: FakeRouter, make: Make, cache: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "MOST_AHEAD", 10)
    fetcher = make(cache)
    assert fetcher.request([router.add(number) for number in range(30)]) == 10
    until(lambda: fetcher.stats().cached == 10)


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
