"""What the tests of Redis Cluster share: keys of a slot, and what nodes hold and were asked."""

from __future__ import annotations

from tests.store.conftest import must_end, within
from tests.store.test_redis_store import some_items, store_at
from tests.support.rediscluster import ClusterNode, RedisCluster
from zerofs.store.base import Found, Store
from zerofs.store.slots import slot_of

Items = list[tuple[bytes, bytes]]


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


def in_one_slot(slot: int, count: int) -> Items:
    """Keys of one slot, by a hash tag."""
    tag = next(b"%d" % number for number in range(1 << 20) if slot_of(b"%d" % number) == slot)
    return [(b"{%s}%d" % (tag, number), b"payload %d" % number * 100) for number in range(count)]


def quoted(cluster: RedisCluster) -> str:
    return cluster.url.replace("s@crEt/", "s%40crEt%2F")


def copied_of(batch: object) -> list[Found]:
    return [bytes(each) if isinstance(each, bytearray) else each for each in batch]  # type: ignore[attr-defined]


def calls(node: ClusterNode, command: str) -> int:
    stats = node.ask("INFO", "commandstats").decode()
    found = stats.partition(f"cmdstat_{command}:calls=")[2]
    rejected = found.partition("rejected_calls=")[2].partition(",")[0]
    return int(found.partition(",")[0] or 0) + int(rejected or 0)
