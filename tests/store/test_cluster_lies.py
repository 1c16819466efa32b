"""Single nodes that behave as no real Redis Cluster does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.store.conftest import must_end, within
from tests.store.fakenode import FakeNode
from tests.store.test_redis_store import store_at
from zerofs.errors import StoreError, StoreProtocolError, StoreUnreachableError
from zerofs.store.build import build_router
from zerofs.store.slots import SLOTS


def a_map(*ports: int) -> bytes:
    """``CLUSTER SLOTS``: all of them at the first port, the others being its replicas."""
    nodes = b"".join(b"*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port for port in ports)
    return b"*1\r\n*%d\r\n:0\r\n:%d\r\n" % (2 + len(ports), SLOTS - 1) + nodes


def node_with(answers: Callable[[list[bytes]], bytes | None], cluster_slots: Callable[[], bytes]) -> FakeNode:
    def answer(words: list[bytes]) -> bytes | None:
        if words[:2] == [b"CLUSTER", b"SHARDS"]:
            return b"-ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.\r\n"
        if words[0] == b"CLUSTER":
            return cluster_slots()
        return b"+OK\r\n" if words[0] in (b"READONLY", b"ASKING") else answers(words)

    return FakeNode(answer)


@pytest.mark.parametrize("kind", [b"MOVED", b"ASK"])
def test_redirections_without_end_are_followed_a_few_times(kind: bytes) -> None:
    ports: list[int] = []
    with node_with(lambda _: b"-%s 7 127.0.0.1:%d\r\n" % (kind, ports[0]), lambda: a_map(*ports)) as node:
        ports.append(node.port)
        with pytest.raises(StoreUnreachableError, match="redirected too often"):
            must_end(
                lambda: list(store_at(f"redis-cluster://127.0.0.1:{node.port}").get_many([b"id"], within()))
            )
        assert 2 <= sum(words[0] == b"GET" for words in node.asked) <= 12


@pytest.mark.parametrize("line", [b"MOVED", b"MOVED 7", b"MOVED 7 a:0", b"MOVED 7 a:b", b"ASK x y z"])
def test_a_malformed_redirection(line: bytes) -> None:
    ports: list[int] = []
    with node_with(lambda _: b"-%s\r\n" % line, lambda: a_map(*ports)) as node:
        ports.append(node.port)
        with pytest.raises(StoreError):
            must_end(
                lambda: list(store_at(f"redis-cluster://127.0.0.1:{node.port}").get_many([b"id"], within(3)))
            )


@pytest.mark.parametrize(
    "answer",
    [
        b"*0\r\n",
        b"$5\r\nhello\r\n",
        b"*-1\r\n",
        b"*99999999999\r\n",
        b"*65536\r\n" * 8,
        b"*1\r\n" * 50,
        b"*1\r\n*3\r\n:0\r\n:99999\r\n*2\r\n$1\r\na\r\n:1\r\n",
        b"*1\r\n$99999999\r\n",
        b"garbage\r\n",
    ],
)
def test_a_map_that_makes_no_sense(answer: bytes) -> None:
    with node_with(lambda _: b"$-1\r\n", lambda: answer) as node:
        with pytest.raises(StoreUnreachableError) as caught:
            must_end(
                lambda: list(store_at(f"redis-cluster://127.0.0.1:{node.port}").get_many([b"id"], within(3)))
            )
        assert isinstance(caught.value, StoreProtocolError) or "belongs to no cluster" in str(caught.value)


def test_what_a_replica_lacks_is_asked_of_its_master() -> None:
    """The master is told to be slow at first, so that the replica is preferred."""
    ports: list[int] = []
    is_busy = [True]

    def master(words: list[bytes]) -> bytes:
        return b"-LOADING it takes a while\r\n" if is_busy[0] else b"$2\r\nhi\r\n"

    with (
        node_with(master, lambda: a_map(*ports)) as first,
        node_with(lambda _: b"$-1\r\n", lambda: a_map(*ports)) as second,
    ):
        ports += [first.port, second.port]
        store = store_at(f"redis-cluster://127.0.0.1:{first.port}")
        with pytest.raises(StoreUnreachableError, match="LOADING"):
            list(store.get_many([b"id"], within()))
        assert [b"READONLY"] in second.asked and [b"GET", b"id"] in second.asked
        is_busy[0] = False
        assert list(store.get_many([b"id"], within())) == [b"hi"]


@pytest.mark.parametrize("line", [b"TRYAGAIN later", b"CLUSTERDOWN The cluster is down", b"MASTERDOWN Link"])
def test_what_passes_is_waited_for_by_the_router(line: bytes) -> None:
    ports: list[int] = []
    times = [3]

    def answer(words: list[bytes]) -> bytes:
        times[0] -= 1
        return b"-%s\r\n" % line if times[0] > 0 else b"$2\r\nhi\r\n"

    with node_with(answer, lambda: a_map(*ports)) as node:
        ports.append(node.port)
        got: list[bytes] = []
        router = build_router(None, [], [], f"redis-cluster://127.0.0.1:{node.port}")
        must_end(
            lambda: router.fetch_many([b"1d" * 16], lambda _, payload: got.append(payload), print, within())
        )
        assert got == [b"hi"]
