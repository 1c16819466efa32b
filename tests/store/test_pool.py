"""Idle connections: who gets which, and who has to make a new one."""

from __future__ import annotations

import pytest

from zerofs.store.pool import MAX_IDLE, ConnectionPool, unhurried


class Connection:
    stale = closed = False

    def is_stale(self) -> bool:
        return self.stale

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pool() -> ConnectionPool[Connection]:
    return ConnectionPool(lambda deadline: Connection())


def test_the_background_leaves_readers_their_connections(pool: ConnectionPool[Connection]) -> None:
    reader, _ = pool.take(0)
    pool.give(reader)
    with unhurried():
        assert not pool.has_idle()
        own, used = pool.take(0)
        assert (own is reader, used) == (False, False)
        pool.give(own)
        assert pool.take(0) == (own, True)
        pool.give(own)
    assert pool.take(0) == (reader, True)


def test_a_reader_takes_one_of_the_background_rather_than_make_one(pool: ConnectionPool[Connection]) -> None:
    with unhurried():
        own, _ = pool.take(0)
        pool.give(own)
    assert pool.take(0) == (own, True)


def test_a_few_of_each_kind_are_kept(pool: ConnectionPool[Connection]) -> None:
    def give_many() -> list[Connection]:
        made = [Connection() for _ in range(MAX_IDLE + 2)]
        for each in made:
            pool.give(each)
        return made

    readers = give_many()
    with unhurried():
        others = give_many()
    assert (
        [each.closed for each in readers]
        == [each.closed for each in others]
        == [False] * MAX_IDLE + [True] * 2
    )
    pool.clear()
    assert all(each.closed for each in readers + others)


def test_a_stale_one_is_not_handed_out(pool: ConnectionPool[Connection]) -> None:
    first, second = Connection(), Connection()
    pool.give(first)
    pool.give(second)
    second.stale = True
    assert pool.take(0) == (first, True)
    assert second.closed
