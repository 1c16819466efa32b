"""A Redis Cluster whose nodes die, hang and come back."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.clusters import Items, calls, copied_of, in_one_slot, loaded, reads_right
from tests.store.conftest import must_end, within
from tests.store.test_redis_store import check_round_trip, some_items, store_at
from tests.support.rediscluster import ClusterNode, RedisCluster
from zerofs.errors import StoreRefusedError, StoreUnreachableError, ZerofsError
from zerofs.store import breaker, lane
from zerofs.store.base import Store
from zerofs.store.build import build_router
from zerofs.store.ranged import RangedStores, parse_ranged_store
from zerofs.store.slots import slot_of


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """A cluster that its test may break."""
    with RedisCluster(tmp_path / "cluster") as cluster:
        yield cluster


def serving(node: ClusterNode) -> list[int]:
    """Ports of the masters and replicas that a node sends clients to."""
    return [port for _, _, *servers in node.ask("CLUSTER", "SLOTS") for _, port, *_ in servers]


# -- nodes lost and back -------------------------------------------------------------------------


def test_a_master_that_dies_and_comes_back(cluster: RedisCluster) -> None:
    store, items = loaded(cluster)
    victim = cluster.holder(0)
    heir = cluster.replica(victim)
    victim.stop()
    reads_right(store, items)  # at once: its replica has them
    writer = RangedStores([parse_ranged_store(cluster.url_of(cluster.nodes[:1]))], timeout=60)
    more = [(key + b"more", payload) for key, payload in items]
    must_end(lambda: writer.put_many(more), 90)  # once the replica has taken over
    assert heir.role() == "master"
    reads_right(store, items + more)
    victim.start()
    cluster.wait(lambda node: b"master_link_status:up" in node.ask("INFO", "replication"), "back", [victim])
    reads_right(store, items + more)
    assert victim.role() == "slave"
    cluster.wait(lambda node: node.ask("DBSIZE") == heir.ask("DBSIZE"), "it has everything", [victim])
    cluster.wait(lambda node: victim.port in serving(node), "everybody knows that it is back")
    heir.stop()  # now the one that came back has to stand in
    reads_right(store, items + more)


def test_a_master_that_says_nothing(cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for node in cluster.nodes:  # until its replica has taken over the others answer nothing either: see below
        node.ask("CONFIG", "SET", "cluster-node-timeout", 120_000)
    store, items = loaded(cluster)
    reads_right(store, items)
    victim = cluster.holder(0)
    before = calls(victim, "get")
    victim.process.send_signal(signal.SIGSTOP)
    try:
        reads_right(store, items, 8.0)  # less than one answer may take
        monkeypatch.setattr(lane, "QUIET", 100.0)  # whoever waits for it from now on does not come back
        probed = time.monotonic() + 3 * breaker.FIRST_PAUSE
        while time.monotonic() < probed:
            reads_right(store, items, 8.0)
    finally:
        victim.process.send_signal(signal.SIGCONT)
    must_end(lambda: reads_until(store, items, lambda: calls(victim, "get") > before), 60)


def reads_until(store: Store, items: Items, condition: Callable[[], bool]) -> None:
    while not condition():
        reads_right(store, items)
        time.sleep(0.05)


def test_readers_wait_until_somebody_stands_in_for_a_master_that_says_nothing(cluster: RedisCluster) -> None:
    """For a while then every node answers CLUSTERDOWN."""
    _, items = loaded(cluster)
    router = build_router(None, [], [], cluster.url)
    victim = cluster.holder(0)
    heir = cluster.replica(victim)
    got: dict[int, bytes] = {}
    failed: list[ZerofsError] = []

    def accept(index: int, payload: bytes) -> None:
        got[index] = bytes(payload)  # its memory is used again

    def read() -> None:
        ids = [key for key, _ in items]
        router.fetch_many(ids, accept, lambda _, fault: failed.append(fault), within(60))

    victim.process.send_signal(signal.SIGSTOP)
    try:
        while heir.role() != "master":
            got.clear()
            must_end(read, 90)
            assert failed == []
            assert [got[index] for index in range(len(items))] == [payload for _, payload in items]
    finally:
        victim.process.send_signal(signal.SIGCONT)


def test_a_whole_shard_is_gone_and_all_else_is_served(cluster: RedisCluster) -> None:
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    store, items = loaded(cluster)
    victim = cluster.holder(0)
    gone = [low <= slot_of(key) <= high for key, _ in items for low, high in [held(victim)]]
    cluster.replica(victim).stop()
    victim.stop()
    ids = [key for key, _ in items]
    batches = must_end(lambda: [copied_of(batch) for batch in store.get_batches(ids, within())])
    found = [each for batch in batches for each in batch]
    for each, (_, payload), is_gone in zip(found, items, gone, strict=True):
        assert isinstance(each, StoreUnreachableError) if is_gone else each == payload
    failed: dict[int, ZerofsError] = {}
    got: set[int] = set()
    router = build_router(None, [], [], cluster.url)
    must_end(lambda: router.fetch_many(ids, lambda index, _: got.add(index), failed.__setitem__, within(1.0)))
    assert [index in failed for index in range(len(ids))] == gone
    assert got == {index for index, is_gone in enumerate(gone) if not is_gone}
    assert all(isinstance(fault, StoreUnreachableError) for fault in failed.values())


def held(node: ClusterNode) -> tuple[int, int]:
    own = next(line for line in node.ask("CLUSTER", "NODES").decode().splitlines() if "myself" in line)
    first, last = own.split()[-1].split("-")
    return int(first), int(last)


def test_readers_notice_nothing_of_a_master_that_dies(cluster: RedisCluster) -> None:
    _, items = loaded(cluster)
    router = build_router(None, [], [], cluster.url)
    failed: list[ZerofsError] = []
    wrong: list[bytes] = []
    finished = threading.Event()
    rounds = [0] * 4

    def read(number: int) -> None:
        noise = random.Random(number)
        while not finished.is_set() or rounds[number] < 3:
            mine = noise.sample(items, 30)

            def accept(index: int, payload: bytes, mine: Items = mine) -> None:
                if payload != mine[index][1]:
                    wrong.append(mine[index][0])

            router.fetch_many(
                [key for key, _ in mine], accept, lambda _, fault: failed.append(fault), within(30)
            )
            rounds[number] += 1

    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    victim = cluster.holder(0)
    heir = cluster.replica(victim)
    victim.stop()
    cluster.wait(lambda node: node.role() == "master", "the replica takes over", [heir])
    victim.start()
    cluster.wait(lambda node: node.role() == "slave", "the old master follows", [victim])
    finished.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert (failed, wrong) == ([], [])


# -- over TLS ----------------------------------------------------------------------------------


@pytest.fixture
def tls_cluster(tmp_path: Path, certificate: Path) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path / "cluster", password="pw", certificate=certificate) as cluster:
        yield cluster


@pytest.mark.usefixtures("trusted")
def test_over_tls_slots_move_and_a_master_dies_as_without(tls_cluster: RedisCluster) -> None:
    store = store_at(tls_cluster.url_of(tls_cluster.nodes[:1]))
    check_round_trip(store)
    items, moving = some_items(80), in_one_slot(4242, 20)
    store.put_many([*items, *moving], within(30))
    source = tls_cluster.holder(4242)
    target = next(node for node in tls_cluster.nodes[:3] if node is not source)
    tls_cluster.begin_move(4242, source, target)
    tls_cluster.migrate([key for key, _ in moving[::2]], source, target)
    reads_right(store, moving)
    assert calls(target, "asking") >= 10
    tls_cluster.migrate([key for key, _ in moving[1::2]], source, target)
    tls_cluster.end_move(4242, target)
    reads_right(store, [*items, *moving])
    tls_cluster.await_replicas()
    tls_cluster.holder(0).stop()
    reads_right(store, items)
    store.close()


def test_a_cluster_whose_certificate_is_not_trusted(tls_cluster: RedisCluster) -> None:
    with pytest.raises(StoreRefusedError, match="certificate is not trusted") as caught:
        must_end(lambda: list(store_at(tls_cluster.url).get_many([b"id"], within())))
    assert "SSL_CERT_FILE" in caught.value.hint
    assert str(caught.value).startswith(f"rediss-cluster://{tls_cluster.nodes[0].address},")
