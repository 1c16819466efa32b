"""Cache pools of a router: what is written back to them, and that they fail no read."""

from __future__ import annotations

import pytest

from tests.store.conftest import must_end, within
from tests.store.routing import CHUNKS, IDS, Proxied, Reader, corrupted, router_of
from tests.store.test_redis_store import Start, store_at
from tests.support.faultproxy import Fault
from tests.support.redisserver import free_port
from zerofs.store import router as router_module
from zerofs.store import writeback


@pytest.mark.parametrize("backend", ["redis", "dir"])
def test_two_replicas_one_corrupt_one_missing_some_and_a_cache_that_fills(
    redis_server: Start, directories: dict[str, str], backend: str
) -> None:
    urls = [redis_server().url for _ in range(3)] if backend == "redis" else list(directories.values())
    corrupt, gaps, cache = map(store_at, urls)
    bad, absent = set(IDS[::2]), set(IDS[1::2])
    corrupt.put_many([(each, corrupted(each) if each in bad else CHUNKS[each]) for each in IDS], within())
    gaps.put_many([(each, CHUNKS[each]) for each in IDS if each not in absent], within())
    router = router_of(
        f"pools:\n  local: {{'00:FF': '{urls[2]}'}}\n"
        f"  hub:\n    00:FF: {urls[0]}\n    00:FF: {urls[1]}\n"
        "lookup: [local, hub]\ncache: [local]\n"
    )
    reader = Reader().read(router)
    assert not reader.failed and len(reader.got) == len(IDS)
    assert router.drain(10)
    assert list(cache.get_many(IDS, within())) == list(CHUNKS.values())
    assert router.written_back() == (len(IDS), 0)
    assert not Reader().read(router).failed  # all from the cache now:
    assert router.drain(10)
    assert router.written_back() == (len(IDS), 0)
    router.close()


def test_a_corrupt_chunk_in_the_cache_pool_is_replaced(directories: dict[str, str]) -> None:
    store_at(directories["a"]).put_many([(each, corrupted(each)) for each in IDS], within())
    store_at(directories["b"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{near: {{'0:f': '{directories['a']}'}}, far: {{'0:f': '{directories['b']}'}}}}\n"
        "lookup: [near, far]\ncache: [near]\n"
    )
    assert not Reader().read(router).failed
    assert router.drain(10)
    assert list(store_at(directories["a"]).get_many(IDS, within())) == list(CHUNKS.values())


def test_a_cache_pool_that_is_down_or_full_fails_no_read(
    directories: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writeback, "MAX_BYTES", 2000)
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{c: {{'0:f': redis://127.0.0.1:{free_port()}}}, p: {{'0:f': '{directories['a']}'}}}}\n"
        "lookup: [p]\ncache: [c]\n"
    )
    assert not Reader().read(router).failed
    assert router.drain(10)
    assert router.written_back() == (0, len(IDS))
    assert sum("not written to a cache pool" in line for line in caplog.messages) == 1
    router.close()


def test_a_cache_pool_that_hangs_holds_nobody_up(
    redis_server: Start, proxied: Proxied, directories: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "MAX_BYTES", 2000)
    monkeypatch.setattr(router_module, "CLOSE_TIMEOUT", 0.1)
    server = redis_server()
    proxy = proxied((server.host, server.port))
    proxy.fault = Fault("silence")
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{c: {{'0:f': redis://{proxy.host}:{proxy.port}}}, p: {{'0:f': '{directories['a']}'}}}}\n"
        "lookup: [p]\ncache: [c]\n"
    )
    assert not Reader().read(router).failed
    written, dropped = router.written_back()
    assert written == 0 and dropped > 0  # what is more than the queue holds, while the store hangs
    must_end(router.close)


def test_a_cache_gets_only_what_its_ranges_take(directories: dict[str, str]) -> None:
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{c: {{'00:7f': '{directories['b']}'}}, p: {{'0:f': '{directories['a']}'}}}}\n"
        "lookup: [p]\ncache: [c]\n"
    )
    Reader().read(router)
    assert router.drain(10)
    there = store_at(directories["b"]).exists_many(IDS, within())
    assert there == [each < b"\x80" for each in IDS]
