"""A router whose stores fail, hang and come back: who stands in, and when a wait ends."""

from __future__ import annotations

import threading
import time

import pytest

from tests.store.conftest import must_end, within
from tests.store.routing import CHUNKS, IDS, Proxied, Reader, calls, router_of
from tests.store.test_redis_store import Start, store_at
from tests.support.faultproxy import Fault
from tests.support.redisserver import free_port
from tests.support.waiting import eventually
from zerofs.errors import ChunkMissingError, StoreTimeoutError, StoreUnreachableError
from zerofs.store import breaker
from zerofs.store.build import build_router


@pytest.mark.parametrize(
    "fault",
    [
        Fault("silence"),
        Fault("silence", after=3000),
        Fault("cut", after=3000),
        Fault("reset"),
        Fault("half-close"),
        Fault("garbage", data=b"garbage"),
        Fault("corrupt", after=3000),
        Fault("trickle", after=3000),
    ],
)
def test_a_replica_stands_in(
    redis_server: Start, proxied: Proxied, fault: Fault, directories: dict[str, str]
) -> None:
    server = redis_server()
    server.load(CHUNKS.items())
    proxy = proxied((server.host, server.port))
    proxy.fault = fault
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools:\n  p:\n    0:f: redis://{proxy.host}:{proxy.port}\n    0:f: {directories['a']}\nlookup: [p]\n"
    )
    assert not Reader().read(router, 2.0).failed


@pytest.mark.parametrize(
    "fault", [Fault("silence"), Fault("cut"), Fault("garbage", data=b"?"), Fault("trickle")]
)
def test_without_a_replica_the_deadline_ends_it(redis_server: Start, proxied: Proxied, fault: Fault) -> None:
    server = redis_server()
    server.load(CHUNKS.items())
    proxy = proxied((server.host, server.port))
    proxy.fault = fault
    router = build_router(None, [], [], f"redis://{proxy.host}:{proxy.port}")
    reader = Reader().read(router, 0.5)
    assert all(isinstance(error, StoreUnreachableError) for error in reader.failed.values())
    assert reader.failed
    proxy.fault = None
    assert not Reader().read(router).failed


def test_a_short_outage_is_waited_for(redis_server: Start) -> None:
    server = redis_server()
    server.stop()
    router = build_router(None, [], [], server.url)
    reader = Reader()
    reading = threading.Thread(target=reader.read, args=(router, 20.0))
    reading.start()
    time.sleep(0.5)
    server.start()
    server.load(CHUNKS.items())
    reading.join(60)
    assert not reading.is_alive()
    # The first answers may come before everything is loaded again: those are honest misses.
    assert all(type(error) is ChunkMissingError for error in reader.failed.values())
    assert not Reader().read(router).failed


def test_what_has_failed_for_long_is_tried_once_and_heals(
    redis_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PATIENCE", 0.2)
    server = redis_server()
    server.stop()
    router = build_router(None, [], [], server.url)
    deadline = within(60)
    reader = Reader(IDS[:1])
    must_end(lambda: router.fetch_many(reader.ids, reader.accept, reader.fail, deadline))
    assert type(reader.failed[0]) is StoreUnreachableError
    assert time.monotonic() < deadline
    server.start()
    server.load(CHUNKS.items())
    assert not Reader().read(router).failed


def test_after_the_first_deadline_a_silent_store_is_soon_known_and_heals(
    redis_server: Start, proxied: Proxied
) -> None:
    server = redis_server()
    server.load(CHUNKS.items())
    proxy = proxied((server.host, server.port))
    router = build_router(None, [], [], f"redis://127.0.0.1:{proxy.port}")
    proxy.fault = Fault("silence")
    for seconds, at_least in ((2.0, 1.5), (60.0, 0.0), (60.0, 0.0)):
        reader = Reader(IDS[:1])
        started = time.monotonic()
        must_end(lambda: router.fetch_many(reader.ids, reader.accept, reader.fail, within(seconds)))  # noqa: B023
        assert type(reader.failed[0]) is StoreTimeoutError
        assert at_least <= time.monotonic() - started < 10 + at_least  # far from a minute
    proxy.fault = None
    assert not Reader().read(router).failed
    router.close()


def test_closing_ends_retries(redis_server: Start) -> None:
    router = build_router(None, [], [], f"redis://127.0.0.1:{free_port()}")
    reader = Reader(IDS[:1])
    closer = threading.Timer(0.2, router.close)
    closer.start()
    deadline = within(60)
    must_end(lambda: router.fetch_many(reader.ids, reader.accept, reader.fail, deadline))
    closer.join()
    assert reader.failed and time.monotonic() < deadline


def test_a_dead_replica_is_passed_over_and_probed(
    redis_server: Start, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    first, second = redis_server(), redis_server()
    first.load(CHUNKS.items())
    second.load(CHUNKS.items())
    proxy = proxied((first.host, first.port))
    proxy.fault = Fault("cut")
    router = router_of(
        f"pools:\n  p:\n    0:f: redis://{proxy.host}:{proxy.port}\n    0:f: {second.url}\nlookup: [p]\n"
    )
    for _ in range(breaker.THRESHOLD):
        assert not Reader().read(router).failed
    connections = proxy.connections
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 60)
    for _ in range(5):
        assert not Reader().read(router).failed
    assert proxy.connections <= connections + 2  # probes, not readers
    proxy.fault = None
    used_before = calls(first)

    def is_asked() -> bool:  # by the next probe, which is half a minute away at the most
        assert not Reader().read(router).failed
        return calls(first) > used_before + len(IDS)

    eventually(is_asked, "a replica that came back and is asked again")


def test_a_timeout_is_an_error_of_its_own(proxied: Proxied, redis_server: Start) -> None:
    server = redis_server()
    proxy = proxied((server.host, server.port))
    proxy.fault = Fault("silence")
    router = build_router(None, [], [], f"redis://{proxy.host}:{proxy.port}")
    error = Reader(IDS[:1]).read(router, 0.3).failed[0]
    assert type(error) is StoreTimeoutError and "--timeout" in error.hint
