"""Every wait ends within its deadline, whatever the server or the network does; and reads heal."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from tests.store.conftest import must_end, within
from tests.store.test_redis_store import Start, store_at
from tests.support.faultproxy import Fault, FaultProxy, Kind
from tests.support.redisserver import RedisServer
from zerofs.errors import StoreError, StoreProtocolError, StoreTimeoutError, StoreUnreachableError
from zerofs.store import connection
from zerofs.store.base import Store

Proxied = Callable[[tuple[str, int]], FaultProxy]

PAYLOADS = {b"%064x" % number: b"%d" % number * 3000 for number in range(150)}
IDS = list(PAYLOADS)


@pytest.fixture
def server(redis_server: Start) -> RedisServer:
    server = redis_server()
    server.load(PAYLOADS.items())
    return server


@pytest.fixture
def proxy(server: RedisServer, proxied: Proxied) -> FaultProxy:
    return proxied((server.host, server.port))


@pytest.fixture
def store(proxy: FaultProxy) -> Store:
    return store_at(f"redis://{proxy.host}:{proxy.port}")


def read_until_error(store: Store, deadline: float) -> tuple[list[bytes | None], StoreError | None]:
    """What came before the error, and the error."""
    got: list[bytes | None] = []
    try:
        for payload in store.get_many(IDS, deadline):
            got.append(payload)
    except StoreError as fault:
        return got, fault
    return got, None


@pytest.mark.parametrize("kind", ["silence", "cut", "reset", "half-close", "garbage"])
def test_batches_hand_out_what_came_before_a_fault_and_then_reads_heal(
    proxy: FaultProxy, store: Store, kind: Kind
) -> None:
    proxy.fault = Fault(kind, after=100_000, data=b"*1\r\n")
    got: list[bytes | None] = []
    with pytest.raises(StoreUnreachableError):
        must_end(lambda: [got.extend(batch) for batch in store.get_batches(IDS, within(0.4))])
    assert got
    assert got == list(PAYLOADS.values())[: len(got)]
    proxy.fault = None
    healed = must_end(lambda: list(store.get_batches(IDS, within())))
    assert [payload for batch in healed for payload in batch] == list(PAYLOADS.values())


@pytest.mark.parametrize("after", [0, 1, 9, 5000, 100_000])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("silence"), StoreTimeoutError),
        (Fault("trickle", seconds=0.02), StoreTimeoutError),
        (Fault("cut"), StoreUnreachableError),
        (Fault("reset"), StoreUnreachableError),
        (Fault("half-close"), StoreUnreachableError),
    ],
)
def test_a_fault_ends_in_its_error_and_then_reads_heal(
    proxy: FaultProxy, store: Store, fault: Fault, after: int, kind: type[StoreError]
) -> None:
    proxy.fault = fault._replace(after=after)
    got, error = must_end(lambda: read_until_error(store, within(0.4)))
    assert type(error) is kind
    assert got == list(PAYLOADS.values())[: len(got)]
    proxy.fault = None
    assert list(store.get_many(IDS, within())) == list(PAYLOADS.values())


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*3\r\n$1\r\na\r\n",
        b"*4000000000\r\n",
        b"$999999999999\r\n",
        b"$5\r\nhelloXX",
        b"+" + b"x" * 100_000,
        b"+OK\r\n",
        b":7\r\n",
        bytes(range(256)) * 100,
    ],
)
def test_garbage_is_a_protocol_error(proxy: FaultProxy, store: Store, garbage: bytes) -> None:
    proxy.fault = Fault("garbage", data=garbage)
    got, error = must_end(lambda: read_until_error(store, within(5)))
    assert (got, type(error)) == ([], StoreProtocolError)
    proxy.fault = None
    assert list(store.get_many(IDS, within())) == list(PAYLOADS.values())


def test_more_answers_than_questions(proxy: FaultProxy, store: Store) -> None:
    proxy.fault = Fault("garbage", data=b"$1\r\nx\r\n" * 10_000)
    got, error = must_end(lambda: read_until_error(store, within(5)))
    assert type(error) is StoreProtocolError and len(got) <= len(IDS)


def test_a_late_answer_still_counts(proxy: FaultProxy, store: Store) -> None:
    proxy.fault = Fault("delay", seconds=0.05)
    assert list(store.get_many(IDS[:3], within())) == [PAYLOADS[each] for each in IDS[:3]]


def test_each_answer_has_its_own_bound(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT", 0.2)
    proxy.fault = Fault("silence", after=50_000)
    deadline = within(60)
    got, error = must_end(lambda: read_until_error(store, deadline))
    assert type(error) is StoreTimeoutError and got
    assert time.monotonic() < deadline


def test_a_connect_that_nobody_answers() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:  # the queue of connections is full: further ones get no answer
                filler.setblocking(False)
                filler.connect_ex(address)
            store = store_at(f"redis://127.0.0.1:{address[1]}")
            with pytest.raises(StoreTimeoutError):
                must_end(lambda: list(store.get_many([b"id"], within(0.3))))
        finally:
            for filler in fillers:
                filler.close()


def test_a_server_that_takes_nothing(proxy: FaultProxy, store: Store) -> None:
    """The peer never reads: what is put fills both socket buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = store_at(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        items = [(b"%064x" % number, bytes(1 << 20)) for number in range(32)]
        with pytest.raises(StoreTimeoutError):
            must_end(lambda: store.put_many(items, within(0.5)))


def test_a_server_that_restarts(server: RedisServer) -> None:
    store = store_at(server.url)
    assert list(store.get_many(IDS, within())) == list(PAYLOADS.values())
    server.stop()
    with pytest.raises(StoreUnreachableError):
        list(store.get_many(IDS[:1], within(5)))
    server.start()
    assert list(store.get_many(IDS[:1], within())) == [None]


@pytest.mark.parametrize("deadline", [-1.0, 0.0])
def test_a_deadline_that_has_passed(store: Store, deadline: float) -> None:
    with pytest.raises(StoreTimeoutError):
        must_end(lambda: list(store.get_many(IDS, within(deadline))))
