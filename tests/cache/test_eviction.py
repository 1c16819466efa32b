"""Eviction: the bound holds, and what is used, held and pinned stays longest."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.support import LARGE, SIZE, chunk, chunks, contents, name, pin_all_of, start, there
from zerofs.cache.clock import Row, Standing, sweep
from zerofs.cache.lmdb import ChunkCache

# -- the clock -----------------------------------------------------------------------------


@given(
    standings=st.lists(st.sampled_from(Standing), max_size=40),
    needed=st.integers(0, 30),
    most=st.integers(1, 20),
    yielding=st.sampled_from([Standing.IDLE, Standing.HELD]),
)
def test_a_sweep_takes_the_first_that_may_go(
    standings: list[Standing], needed: int, most: int, yielding: Standing
) -> None:
    order = [Row(n, name(n), n % 3 + 1) for n in range(len(standings))]
    by_name = {row.name: standing for row, standing in zip(order, standings, strict=True)}
    swept = sweep(
        order, by_name.__getitem__, weigh=lambda row: row.length, needed=needed, most=most, yielding=yielding
    )
    may_go = [row for row in order if by_name[row.name] <= yielding]
    count = 0
    while count < len(may_go) and count < most and sum(row.length for row in may_go[:count]) < needed:
        count += 1
    assert swept.victims == may_go[:count]
    enough = count == most or sum(row.length for row in swept.victims) >= needed
    end = len(order) if not enough else (swept.victims[-1].sequence + 1 if swept.victims else 0)
    assert swept.passed == [row for row in order[:end] if row not in swept.victims]


class Model:
    """The clock over a plain list."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.used: set[int] = set()

    def evict(self, many: int) -> None:
        while many and self.order:
            first = self.order.pop(0)
            if first in self.used:
                self.used.discard(first)
                self.order.append(first)
            else:
                many -= 1


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("use"), st.integers(0, 40)),
            st.tuples(st.just("put"), st.integers(0, 40)),
            st.tuples(st.just("evict"), st.integers(1, 5)),
        ),
        max_size=60,
    )
)
def test_the_cache_evicts_as_the_model(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = Model()
    with ChunkCache(tmp_path_factory.mktemp("cache"), size_limit=SIZE) as cache:
        for what, number in steps:
            if what == "put":
                cache.put_many([chunk(number, 5000)])
                if number not in model.order:
                    model.order.append(number)
            elif what == "use":
                cache._environment.usage.use(name(number))
                model.used.add(number)
            else:
                mapped = cache._environment.mapped
                assert mapped is not None
                cache._writer.evictor._resume = 0.0
                cache._writer.evictor.evict(mapped, 2 * number)  # each has two pages
                model.evict(number)
            assert there(cache, 41) == set(model.order)


def test_one_use_is_one_reason_to_stay(cache: ChunkCache) -> None:
    evict = cache._writer.evictor.evict
    mapped = cache._environment.mapped
    assert mapped is not None
    cache.put_many(chunks(4, 5000))
    cache._environment.usage.use(name(0))
    evict(mapped, 2)  # pages: one entry
    assert there(cache, 6) == {0, 2, 3}
    cache.put_many([chunk(4, 5000), chunk(5, 5000)])
    evict(mapped, 6)
    assert there(cache, 6) == {4, 5}


def test_what_is_used_outlives_a_stream(cache: ChunkCache) -> None:
    cache.put_many(chunks(8, LARGE))
    for number in range(100, 160):
        for each in range(4):
            cache._environment.usage.use(name(each))
        cache.put_many([chunk(number, LARGE)])
    assert there(cache, 8) == {0, 1, 2, 3}


def test_what_a_live_mount_holds_outlives_a_stream_that_is_used_too(cache: ChunkCache) -> None:
    cache.put_many(chunks(8, LARGE))
    working = cache.working_set()
    working.grow(8)
    for each in range(4):
        working.found(each, name(each), LARGE)
    cache._environment.usage.hold()
    for number in range(100, 160):
        cache.put_many([chunk(number, LARGE)])
        cache._environment.usage.use(name(number))
    assert there(cache, 8) == {0, 1, 2, 3}
    assert cache.stats().refused == 0


def test_where_all_is_held_something_goes_nevertheless(cache: ChunkCache) -> None:
    sets = [cache.working_set() for _ in range(4)]
    for number in range(60):
        cache.put_many([chunk(number, LARGE)])
        working = sets[number % 4]
        working.grow(60)
        working.found(number, name(number), LARGE)
        cache._environment.usage.hold()
    assert cache.has_many([name(59)]) == [True]
    assert cache.stats().evicted > 20


def test_what_is_pinned_stays_and_where_all_is_pinned_the_rest_is_refused(
    cache: ChunkCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put_many(chunks(8, LARGE))
    pin_all_of(cache, {name(number) for number in range(60)})
    for number in range(100, 160):
        assert cache.put_many([chunk(number, LARGE)]) == 1
    assert there(cache, 100) == set(range(8))
    for number in range(8, 60):
        cache.put_many([chunk(number, LARGE)])
    assert cache.full and cache.stats().refused > 20
    assert len(caplog.records) == 1 and "full at" in caplog.text
    pin_all_of(cache, set())
    cache._writer.evictor._resume = 0.0
    assert cache.put_many([chunk(200, LARGE)]) == 1
    assert not cache.full


def test_a_search_in_vain_counts_until_something_is_stored(
    cache: ChunkCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put_many(chunks(8, LARGE))
    pin_all_of(cache, {name(number) for number in range(60)})
    for number in range(8, 60):
        cache.put_many([chunk(number, LARGE)])
    assert cache.full
    pin_all_of(cache, set())
    cache._writer.evictor._resume = time.monotonic() + 3600
    cache.drop_many([name(0), name(1)])
    assert cache.put_many([chunk(100, LARGE)]) == 1  # there is room
    for number in range(101, 140):
        assert cache.put_many([chunk(number, LARGE)]) == 1
    assert not cache.full


# -- readers and the bound -----------------------------------------------------------------


def test_a_reader_that_stays_costs_room_and_nothing_else(cache: ChunkCache) -> None:
    cache.put_many(chunks(20, LARGE))
    with cache.snapshot() as old:
        views = {number: old.find(name(number)) for number in range(20)}
        begun = time.monotonic()
        for number in range(100, 150):
            cache.put_many([chunk(number, LARGE)])
        assert time.monotonic() - begun < 30
        assert cache.stats().refused > 0
        for number, view in views.items():
            assert view == chunk(number, LARGE)[1]
    for number in range(150, 200):
        cache._writer._patient_from = 0.0
        assert cache.put_many([chunk(number, LARGE)]) == 1
    assert (cache.directory / "data.mdb").stat().st_size <= SIZE
    assert cache.stats().errors == cache.stats().replaced == 0


def test_nothing_goes_for_a_reader_that_stays(cache: ChunkCache) -> None:
    """It would keep the pages of what goes, too: mounts share a cache, and one of them is always reading."""
    for number in range(60):
        cache.put_many([chunk(number, LARGE)])
    before = cache.stats()
    with cache.snapshot():
        for number in range(100, 130):
            cache.put_many([chunk(number, LARGE)])
        stats = cache.stats()
        assert stats.refused > 20
        assert stats.entries > before.entries - 4
        assert stats.evicted - before.evicted < 8


def test_a_reader_that_is_asked_to_go_costs_nothing(cache: ChunkCache) -> None:
    held = [cache.snapshot()]
    asked = []

    def renew() -> None:
        asked.append(1)
        held.pop().release()
        held.append(cache.snapshot())

    cache._environment.usage.ask_readers = renew  # type: ignore[method-assign]
    for number in range(100):
        assert held[0].find(b"nothing") is None
        assert cache.put_many([chunk(number, LARGE)]) == 1
    assert 0 < len(asked) < 100
    held[0].release()


@pytest.mark.parametrize("size", [1000, 5000, 20_000])
def test_a_reader_is_asked_to_go_where_no_page_is_left_at_all(cache: ChunkCache, size: int) -> None:
    """Small entries change a page of the tree each, until nothing can even be deleted for want of pages."""
    held = [cache.snapshot()]

    def renew() -> None:
        held.pop().release()
        held.append(cache.snapshot())

    cache._environment.usage.ask_readers = renew  # type: ignore[method-assign]
    for first in range(0, 9000, 40):
        assert cache.put_many([chunk(number, size) for number in range(first, first + 40)]) == 40
    assert cache.stats().evicted > 1000
    held[0].release()


def test_a_search_that_was_not_finished_does_not_mean_full(
    cache: ChunkCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerofs.cache.evictor.MOST_LOOKED", 8)
    monkeypatch.setattr("zerofs.cache.evictor.LOOK_TOGETHER", 8)
    monkeypatch.setattr("zerofs.cache.evictor.PAUSE", 0.0)
    for number in range(25):
        cache.put_many([chunk(number, LARGE)])
    held = there(cache, 25)
    for number in held:
        cache._environment.usage.use(name(number))
    stored = [cache.put_many([chunk(number, LARGE)]) for number in range(100, 110)]
    assert not cache.full and "full at" not in caplog.text
    assert 0 in stored and stored[-1] == 1


# -- the floor -----------------------------------------------------------------------------


def test_the_file_does_not_grow_where_the_disk_has_no_more_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    free = [1 << 30]

    class Disk:
        f_frsize = 1

        @property
        def f_bavail(self) -> int:
            return free[0]

    monkeypatch.setattr("zerofs.cache.room.os.statvfs", lambda path: Disk())
    assert real.f_bavail > 0
    with ChunkCache(tmp_path, size_limit=SIZE, free_limit=100 << 20) as cache:
        cache.put_many(chunks(10, LARGE))
        size = (tmp_path / "data.mdb").stat().st_size
        free[0] = 100 << 20
        for number in range(100, 140):
            assert cache.put_many([chunk(number, LARGE)]) == 1
        assert (tmp_path / "data.mdb").stat().st_size <= size + 2 * LARGE
        assert cache.stats().evicted > 20
        free[0] = 1 << 30
        for number in range(200, 300):
            cache.put_many([chunk(number, LARGE)])
        assert (tmp_path / "data.mdb").stat().st_size > SIZE * 0.85
        assert cache.stats().free_limit == 100 << 20


def test_a_small_cache_on_a_full_disk_keeps_most_of_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file does not get smaller by what goes."""

    class Disk:
        f_frsize, f_bavail = 1, 1 << 30

    monkeypatch.setattr("zerofs.cache.room.os.statvfs", lambda path: Disk())
    with ChunkCache(tmp_path, size_limit=4 << 20, free_limit=100 << 20) as cache:
        for number in range(200):
            cache.put_many([chunk(number, 50_000)])
        before = cache.stats().entries
        monkeypatch.setattr(Disk, "f_bavail", 0)
        for number in range(200, 300):
            assert cache.put_many([chunk(number, 50_000)]) == 1
        assert cache.stats().entries > before // 2
    assert caplog.text == ""


# -- another size --------------------------------------------------------------------------


def test_a_smaller_bound_keeps_what_is_worth_most(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(24, LARGE))
        cache._environment.usage.use(name(3))
    with ChunkCache(tmp_path, size_limit=4 << 20) as cache:
        assert cache.size_limit == 4 << 20
        assert (tmp_path / "data.mdb").stat().st_size <= 4 << 20
        kept = there(cache, 24)
        assert 3 in kept and kept - {3} == set(range(24 - len(kept) + 1, 24)) and len(kept) >= 5
        assert {plain for _, plain in contents(cache, 24)} == {chunk(n, LARGE)[1] for n in kept}
        for number in range(100, 120):
            assert cache.put_many([chunk(number, LARGE)]) == 1
        assert (tmp_path / "data.mdb").stat().st_size <= 4 << 20
    with ChunkCache(tmp_path, size_limit=2 * SIZE) as cache:
        for number in range(200, 300):
            assert cache.put_many([chunk(number, LARGE)]) == 1
        assert SIZE < (tmp_path / "data.mdb").stat().st_size <= 2 * SIZE
    assert not list(tmp_path.glob("*compacting*")) and not list(tmp_path.glob("*bad*"))


def test_who_names_no_bound_leaves_it_as_it_was(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, LARGE))
    with ChunkCache(tmp_path, size_limit=None) as cache:
        assert cache.size_limit == SIZE
        out = start(
            "with ChunkCache(Path(sys.argv[1]), size_limit=1 << 30) as cache: print(cache.size_limit)",
            tmp_path,
        ).communicate(timeout=60)[0]
        assert int(out) == SIZE


def test_a_full_disk_costs_a_shrinking_cache_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(24, LARGE))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zerofs.cache.compaction._copy", full)
    with ChunkCache(tmp_path, size_limit=4 << 20) as cache:
        assert cache.put_many(chunks(2, LARGE)) == 2
        assert (tmp_path / "data.mdb").stat().st_size <= 4 << 20
    assert "cannot be made smaller" in caplog.text and not list(tmp_path.glob("*compacting*"))
