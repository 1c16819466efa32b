"""Slots: the specification's own values, and maps that make no sense."""

from __future__ import annotations

import pytest

from zerofs.store.connection import Nested
from zerofs.store.slots import SLOTS, Shard, address_of, map_of_shards, map_of_slots, slot_of

Z = b"\0" * 16


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"123456789", 0x31C3),
        (b"foo", 12182),
        (b"{foo}bar", 12182),
        (b"bar{foo}{x}", 12182),
        (b"x{foo", slot_of(b"x{foo")),
        (b"", 0),
    ],
)
def test_slots_of_keys(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_braces_with_nothing_in_them_are_part_of_the_key() -> None:
    assert len({slot_of(b"{}" + bytes([n])) for n in range(64)}) > 32
    assert slot_of(b"{}{foo}") != slot_of(b"foo")


def test_both_answers_say_the_same() -> None:
    slots: Nested = [
        [0, 99, [b"10.0.0.1", 1, b"id", []], [b"", 2, b"id"]],
        [100, SLOTS - 1, [None, 3, b"id", [b"ip", b"10.0.0.3"]]],
    ]

    def node(endpoint: bytes | None, port: int, role: bytes, health: bytes = b"online") -> Nested:
        return [b"ip", b"10.0.0.3", b"port", port, b"endpoint", endpoint, b"role", role, b"health", health]

    shards: Nested = [
        [b"slots", [0, 99], b"nodes", [node(b"seed", 2, b"replica"), node(b"10.0.0.1", 1, b"master")]],
        [b"slots", [100, SLOTS - 1], b"nodes", [node(b"x", 9, b"master", b"fail"), node(b"?", 3, b"master")]],
        [b"slots", [], b"nodes", [node(b"y", 9, b"master", b"fail")]],
    ]
    for found in (map_of_slots(slots, "seed"), map_of_shards(shards, "seed")):
        assert found.covered == SLOTS
        assert found.shard(99) == Shard(("10.0.0.1", 1), (("seed", 2),))
        assert found.shard(100) == Shard(("10.0.0.3", 3))
        assert found.addresses() == [("10.0.0.1", 1), ("10.0.0.3", 3), ("seed", 2)]


def test_a_slot_that_moved_takes_the_replicas_of_its_new_master_along() -> None:
    old = map_of_slots([[0, 9, [b"a", 1], [b"b", 1]], [10, 19, [b"c", 1], [b"d", 1]]], "seed")
    new = old.moved(3, ("c", 1)).moved(4, ("new", 1))
    assert (new.shard(3), new.shard(4), new.shard(5)) == (old.shard(10), Shard(("new", 1)), old.shard(0))
    assert old.shard(3) == old.shard(0)


def test_a_redirection_without_a_host_means_the_one_that_was_asked() -> None:
    assert address_of(b":7001", "seed") == ("seed", 7001)
    assert address_of(b"2001:db8::1:7001", "seed") == ("2001:db8::1", 7001)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        [7],
        [[0, 1]],
        [[0, SLOTS, [b"a", 1]]],
        [[-1, 3, [b"a", 1]]],
        [[9, 3, [b"a", 1]]],
        [[0, b"1", [b"a", 1]]],
        [[0, 1, [b"a", 0]]],
        [[0, 1, [b"a", b"1"]]],
        [[0, 1, [b"a\n", 1]]],
        [[0, 1, [b"\xff", 1]]],
        [[0, 1, [b"a" * 256, 1]]],
        [[0, 1, [b"a"]]],
        [[b"slots", [0]]],
        [[b"slots", [0, 1], b"nodes", 3]],
        [[b"slots", [0], b"nodes", []]],
        [[[b"slots"], [0, 1]]],
    ],
)
def test_what_makes_no_sense_is_refused(answer: Nested) -> None:
    for read in (map_of_slots, map_of_shards):
        with pytest.raises(ValueError):
            read(answer, "seed")
