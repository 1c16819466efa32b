"""Redis Cluster: a real one of three masters with replicas, and single nodes that behave as no real one does."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.conftest import must_end, within
from tests.store.fakenode import FakeNode
from tests.store.test_redis_store import Start, check_round_trip, copied, some_items, store_at
from tests.support.rediscluster import ClusterNode, RedisCluster
from tests.support.redisserver import free_port
from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreProtocolError,
    StoreRefusedError,
    StoreUnreachableError,
    ZerofsError,
)
from zerofs.store import breaker, lane
from zerofs.store.base import Found, Store
from zerofs.store.build import build_router
from zerofs.store.ranged import RangedStores, parse_ranged_store
from zerofs.store.slots import SLOTS, slot_of

Items = list[tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster that its tests leave as it is, but for what it holds."""
    with RedisCluster(tmp_path_factory.mktemp("cluster"), password="s@crEt/") as cluster:
        yield cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """A cluster that its test may break."""
    with RedisCluster(tmp_path / "cluster") as cluster:
        yield cluster


def loaded(cluster: RedisCluster) -> tuple[Store, Items]:
    """A store there that knows one node, and what it and its replicas hold."""
    store = store_at(cluster.url_of(cluster.nodes[:1]))
    items = some_items(120)
    store.put_many(items, within())
    cluster.await_replicas()
    return store, items


def reads_right(store: Store, items: Items, seconds: float = 10.0) -> None:
    ids = [chunk_id for chunk_id, _ in items]
    assert must_end(lambda: list(store.get_many(ids, within(seconds)))) == [payload for _, payload in items]


def serving(node: ClusterNode) -> list[int]:
    """Ports of the masters and replicas that a node sends clients to."""
    return [port for _, _, *servers in node.ask("CLUSTER", "SLOTS") for _, port, *_ in servers]


def in_one_slot(slot: int, count: int) -> Items:
    """Keys of one slot, by a hash tag."""
    tag = next(b"%d" % number for number in range(1 << 20) if slot_of(b"%d" % number) == slot)
    return [(b"{%s}%d" % (tag, number), b"payload %d" % number * 100) for number in range(count)]


def quoted(cluster: RedisCluster) -> str:
    return cluster.url.replace("s@crEt/", "s%40crEt%2F")


# -- as any other store ----------------------------------------------------------------------


def test_round_trip(shared: RedisCluster) -> None:
    check_round_trip(store_at(quoted(shared)))
    held = [node.ask("DBSIZE") for node in shared.nodes[:3]]
    assert all(held), "every master has its share"


def test_batches_hold_what_is_asked_for_in_order(shared: RedisCluster) -> None:
    store = store_at(quoted(shared))
    items = some_items()
    store.put_many(items, within(30))
    asked = [b"none", *(chunk_id for chunk_id, _ in items), b"none"]
    batches = must_end(lambda: [copied(batch) for batch in store.get_batches(asked, within(30))])
    assert [payload for batch in batches for payload in batch] == [None, *(p for _, p in items), None]
    assert all(batches) and len(batches) < len(asked) / 2
    assert list(store.get_batches([], within())) == []


def test_connections_and_the_map_are_kept(shared: RedisCluster) -> None:
    store = store_at(quoted(shared))
    ids = [b"%d" % number for number in range(50)]
    assert list(store.get_many(ids, within())) == [None] * 50
    connections = [made(node) for node in shared.nodes]
    maps = sum(calls(node, "cluster|shards") for node in shared.nodes)
    for _ in range(20):
        assert list(store.get_many(ids, within())) == [None] * 50
    # One more is that of the count, another one may be the first to a replica.
    assert all(made(node) <= before + 3 for node, before in zip(shared.nodes, connections, strict=True))
    assert sum(calls(node, "cluster|shards") for node in shared.nodes) == maps


def made(node: ClusterNode) -> int:
    """Connections that it has taken so far, this one included."""
    return int(node.ask("INFO", "stats").decode().split("total_connections_received:")[1].split()[0])


def test_an_abandoned_iterator_does_not_mix_answers(shared: RedisCluster) -> None:
    store = store_at(quoted(shared))
    items = some_items(60)
    store.put_many(items, within())
    for stop in (1, 3, 40):
        answers = store.get_many([chunk_id for chunk_id, _ in items], within())
        assert [next(answers) for _ in range(stop)] == [payload for _, payload in items[:stop]]
        del answers
        reads_right(store, items)


@pytest.mark.parametrize("user", ["", ":hunter2@", "nobody:hunter2@"])
def test_a_wrong_password_is_told_and_not_shown(shared: RedisCluster, user: str) -> None:
    store = store_at(f"redis-cluster://{user}{shared.nodes[0].address},{shared.nodes[1].address}")
    with pytest.raises(StoreAuthError) as caught:
        list(store.get_many([b"id"], within()))
    assert "hunter2" not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert str(caught.value).startswith(f"redis-cluster://{shared.nodes[0].address},")


def test_a_value_of_another_type_fails_that_id_only(shared: RedisCluster) -> None:
    store = store_at(quoted(shared))
    items = in_one_slot(77, 3)
    store.put_many([items[0], items[2]], within())
    shared.holder(77).ask("LPUSH", items[1][0], "x")
    found = [
        each for batch in store.get_batches([key for key, _ in items], within()) for each in copied_of(batch)
    ]
    assert found[0] == items[0][1] and found[2] == items[2][1]
    assert isinstance(found[1], StoreError) and "WRONGTYPE" in str(found[1])
    shared.holder(77).ask("DEL", items[1][0])


def copied_of(batch: object) -> list[Found]:
    return [bytes(each) if isinstance(each, bytearray) else each for each in batch]  # type: ignore[attr-defined]


# -- seeds -----------------------------------------------------------------------------------


def test_seeds_that_are_of_no_use_are_passed_over(shared: RedisCluster, redis_server: Start) -> None:
    alone = redis_server()
    seeds = f"nowhere.invalid:1,127.0.0.1:{free_port()},{alone.host}:{alone.port},{shared.nodes[4].address}"
    store = store_at(quoted(shared).partition("@")[0] + "@" + seeds)
    store.put_many([(b"id", b"x")], within())
    reads_right(store, [(b"id", b"x")])


def test_no_seed_answers() -> None:
    port = free_port()
    store = store_at(f"redis-cluster://:hunter2@127.0.0.1:{port},nowhere.invalid:7")
    with pytest.raises(StoreUnreachableError) as caught:
        must_end(lambda: list(store.get_many([b"id"], within())))
    message = str(caught.value)
    assert message.startswith(f"redis-cluster://127.0.0.1:{port},nowhere.invalid:7: ")
    assert "Connection refused" in message and "nowhere.invalid does not resolve" in message
    assert "hunter2" not in message


def test_a_server_that_is_no_cluster(redis_server: Start) -> None:
    server = redis_server()
    with pytest.raises(StoreRefusedError, match="cluster support disabled") as caught:
        list(store_at(f"redis-cluster://{server.host}:{server.port}").get_many([b"id"], within()))
    assert "redis://" in caught.value.hint


def test_one_node_as_a_plain_store_says_what_it_is(shared: RedisCluster) -> None:
    store = store_at(f"redis://{quoted(shared).split('//')[1].split('@')[0]}@{shared.nodes[0].address}")
    with pytest.raises(StoreError, match="one node of a Redis Cluster") as caught:
        list(store.get_many([b"%d" % number for number in range(20)], within()))
    assert "redis-cluster://" in caught.value.hint


# -- slots on the move -------------------------------------------------------------------------


def test_keys_of_a_slot_that_is_on_its_way_are_found_on_either_side(shared: RedisCluster) -> None:
    slot = 4242
    store = store_at(quoted(shared))
    items = in_one_slot(slot, 40)
    store.put_many(items, within())
    source = shared.holder(slot)
    target = next(node for node in shared.nodes[:3] if node is not source)
    shared.begin_move(slot, source, target)
    shared.migrate([key for key, _ in items[::2]], source, target)
    mixed = [each for pair in zip(items, some_items(40), strict=True) for each in pair]
    store.put_many(
        mixed, within()
    )  # what is overwritten goes to where it lies now, what is new to the target
    reads_right(store, mixed)
    assert store.exists_many([key for key, _ in [*items, (b"none", b"")]], within()) == [True] * 40 + [False]
    asked = calls(target, "asking")
    assert asked >= 60, "redirected for the time being, which is no reason to change the map"
    shared.migrate([key for key, _ in items[1::2]], source, target)
    shared.end_move(slot, target)
    reads_right(store, mixed)
    reads_right(store, mixed)
    assert calls(target, "asking") == asked
    shared.begin_move(slot, target, source)  # as it was
    shared.migrate([key for key, _ in items], target, source)
    shared.end_move(slot, source)
    reads_right(store, mixed)


def test_a_slot_that_has_moved_is_asked_of_its_new_master_from_then_on(shared: RedisCluster) -> None:
    slot = 9001
    store = store_at(quoted(shared))
    items = in_one_slot(slot, 10)
    store.put_many(items, within())
    source = shared.holder(slot)
    target = next(node for node in shared.nodes[:3] if node is not source)
    for here, there in ((source, target), (target, source)):
        shared.begin_move(slot, here, there)
        shared.migrate([key for key, _ in items], here, there)
        shared.end_move(slot, there)
        reads_right(store, items)
        before = calls(here, "get")
        for _ in range(5):
            reads_right(store, items)
        assert calls(here, "get") == before


def calls(node: ClusterNode, command: str) -> int:
    stats = node.ask("INFO", "commandstats").decode()
    found = stats.partition(f"cmdstat_{command}:calls=")[2]
    rejected = found.partition("rejected_calls=")[2].partition(",")[0]
    return int(found.partition(",")[0] or 0) + int(rejected or 0)


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


def test_a_cache_pool_in_a_cluster_fills_up(shared: RedisCluster, redis_server: Start) -> None:
    far = redis_server()
    items = [(b"%032x" % number, b"chunk %d" % number * 50) for number in range(80)]
    far.load(items)
    text = (
        f"pools:\n  far: {{'0:f': '{far.url}'}}\n  near: {{'0:f': '{quoted(shared)}'}}\n"
        "lookup: [near, far]\ncache: [near]\n"
    )
    router = build_router(None, [("router.yaml", text.encode())], [], None)
    failed: dict[int, ZerofsError] = {}
    router.fetch_many([key for key, _ in items], lambda *_: None, failed.__setitem__, within())
    assert not failed and router.drain(10)
    assert router.written_back() == (80, 0)
    reads_right(store_at(quoted(shared)), items)
    router.close()


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


# -- what no real node does --------------------------------------------------------------------


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
