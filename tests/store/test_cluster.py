"""A store in a real Redis Cluster of three masters with replicas, which stays whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store.clusters import calls, copied_of, in_one_slot, quoted, reads_right
from tests.store.conftest import must_end, within
from tests.store.test_redis_store import Start, check_round_trip, copied, some_items, store_at
from tests.support.rediscluster import ClusterNode, RedisCluster
from tests.support.redisserver import free_port
from zerofs.errors import StoreAuthError, StoreError, StoreRefusedError, StoreUnreachableError, ZerofsError
from zerofs.store.build import build_router


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster that its tests leave as it is, but for what it holds."""
    with RedisCluster(tmp_path_factory.mktemp("cluster"), password="s@crEt/") as cluster:
        yield cluster


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


# -- nodes lost and back -------------------------------------------------------------------------


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
