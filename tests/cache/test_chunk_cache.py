"""The chunk cache against its promises: what was put is found, whole or not at all, within the bound."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.support import LARGE, SIZE, chunk, chunks, contents
from zerofs._fast import pack_entries
from zerofs.cache import entry
from zerofs.cache.lmdb import ChunkCache, Snapshot


def test_what_was_put_is_found_as_a_view(cache: ChunkCache) -> None:
    name, plain = chunk(1, LARGE)
    assert cache.put_many([(name, plain)]) == 1
    with cache.snapshot() as snapshot:
        view = snapshot.find(name)
        assert isinstance(view, memoryview) and view.readonly and view.contiguous
        assert view == plain
        assert snapshot.find(name, verify=False) == plain
        assert snapshot.find(b"\x02" + bytes(16)) is None
        assert snapshot.find(b"") is None
        assert snapshot.find(bytes(600)) is None


def test_the_file_keeps_its_name_and_everything_is_private(cache: ChunkCache, tmp_path: Path) -> None:
    cache.put_many(chunks(1, 100))
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir()}
    assert files == dict.fromkeys(("data.mdb", "lock.mdb", "recency", "users.lock"), 0o600)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_entries_outlive_the_cache_object(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(5, 3000))
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 5) == chunks(5, 3000)


@settings(max_examples=15, deadline=None)
@given(
    batches=st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9000)), max_size=8), max_size=6)
)
def test_it_equals_a_dictionary(
    batches: list[list[tuple[int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model: dict[bytes, bytes] = {}
    with ChunkCache(tmp_path_factory.mktemp("cache"), size_limit=SIZE) as cache:
        for batch in batches:
            entries = [chunk(number, size) for number, size in batch]
            assert cache.put_many(entries) == len(entries)
            for name, plain in entries:
                model.setdefault(name, plain)
            names = [chunk(number, 0)[0] for number in range(31)]
            assert cache.has_many(names) == [name in model for name in names]
        with cache.snapshot() as snapshot:
            assert {name: bytes(snapshot.find(name) or b"") for name in model} == model
        assert cache.stats().entries == len(model)


def test_a_dropped_entry_is_gone_and_can_come_back(cache: ChunkCache) -> None:
    cache.put_many(chunks(3, 5000))
    name, plain = chunk(1, 5000)
    cache.drop(name)
    cache.drop(b"\x02never there")
    assert cache.has_many([chunk(number, 0)[0] for number in range(3)]) == [True, False, True]
    assert cache.put_many([(name, plain)]) == 1
    assert contents(cache, 3) == chunks(3, 5000)


def test_several_are_read_as_each_would_be(cache: ChunkCache) -> None:
    cache.put_many(chunks(5, 3000))
    (lacking, _), (there, plain), (also, other) = chunk(9, 0), chunk(1, 3000), chunk(4, 3000)
    name_of_nothing = b"n" * 1000  # longer than any that LMDB takes
    for names, plains in (
        ([], []),
        ([lacking], [None]),
        ([there, lacking, also, there], [plain, None, other, plain]),
        ([there, name_of_nothing, lacking], [plain, None, None]),
    ):
        with cache.snapshot() as snapshot:
            assert snapshot.read_many(names) == plains == [snapshot.read(name) for name in names]
    snapshot.release()
    assert snapshot.read_many([there, lacking]) == [None, None], "it is over"


def test_a_snapshot_shows_one_moment(cache: ChunkCache) -> None:
    cache.put_many([chunk(1, LARGE)])
    with cache.snapshot() as before:
        view = before.find(chunk(1, 0)[0])
        cache.put_many([chunk(2, 100)])
        cache.drop(chunk(1, 0)[0])
        cache.put_many([chunk(3, LARGE)])
        assert before.find(chunk(2, 0)[0]) is None
        assert view == chunk(1, LARGE)[1], "pages of a snapshot were given to another entry"
    with cache.snapshot() as after:
        assert after.find(chunk(1, 0)[0]) is None
        assert after.find(chunk(2, 0)[0]) is not None


def test_released_snapshots_pin_no_pages(cache: ChunkCache) -> None:
    for _ in range(3):
        opened: list[Snapshot] = [cache.snapshot() for _ in range(40)]
        for snapshot in opened:
            snapshot.release()
            snapshot.release()
    for number in range(200):  # six times the bound, through the same pages
        assert cache.put_many([chunk(number, LARGE)]) == 1, number
        cache.drop(chunk(number, 0)[0])
    assert cache.stats().used < SIZE / 4


def test_reading_and_writing_from_many_threads(cache: ChunkCache) -> None:
    wrong: list[object] = []

    def write(first: int) -> None:
        for number in range(first, 120, 4):
            cache.put_many([chunk(number, 20_000)])

    def read() -> None:
        for number in [*range(120)] * 3:
            name, plain = chunk(number, 20_000)
            with cache.snapshot() as snapshot:
                view = snapshot.find(name)
                if view is not None and view != plain:
                    wrong.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    threads += [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert contents(cache, 120) == chunks(120, 20_000)


# -- the bound -----------------------------------------------------------------------------


def test_it_fills_up_to_its_bound_and_then_the_oldest_go(cache: ChunkCache) -> None:
    data = cache.directory / "data.mdb"
    for number in range(100):
        assert cache.put_many([chunk(number, LARGE)]) == 1
        assert data.stat().st_size <= SIZE
    stats = cache.stats()
    assert data.stat().st_size > SIZE * 0.85
    assert stats.entries + stats.evicted == 100 and stats.refused == 0 and not cache.full
    held = cache.has_many([chunk(number, 0)[0] for number in range(100)])
    assert held == [False] * stats.evicted + [True] * stats.entries
    assert stats.entries * LARGE > SIZE * 0.6
    assert contents(cache, 100) == chunks(100, LARGE)[stats.evicted :]


def test_of_one_batch_that_is_larger_than_the_cache_the_end_stays(cache: ChunkCache) -> None:
    cache.put_many(chunks(60, LARGE))
    assert cache.has_many([chunk(59, 0)[0]]) == [True]
    assert (cache.directory / "data.mdb").stat().st_size <= SIZE


def test_a_full_cache_takes_entries_of_all_sizes(cache: ChunkCache) -> None:
    for number in range(0, 3000, 100):
        assert cache.put_many([chunk(number, LARGE)]) == 1
        entries = [chunk(number + each, each * 97 % 9000) for each in range(1, 100)]
        assert cache.put_many(entries) == len(entries)
    assert (cache.directory / "data.mdb").stat().st_size <= SIZE
    assert cache.stats().errors == cache.stats().replaced == cache.stats().refused == 0
    assert {len(plain) for _, plain in contents(cache, 3000)} >= {LARGE}


def test_a_full_cache_of_small_entries_can_drop_many_at_once(cache: ChunkCache) -> None:
    names = [name for name, _ in chunks(6000, 0)]
    cache.put_many(chunks(6000, 3000))
    there = [name for name, held in zip(names, cache.has_many(names), strict=True) if held]
    cache.drop_many(there[::2])
    assert not any(cache.has_many(there[::2])) and all(cache.has_many(there[1::2]))
    assert cache.stats().errors == 0


def test_the_bound_is_whole_pages_and_has_a_minimum(tmp_path: Path) -> None:
    with ChunkCache(tmp_path / "small", size_limit=1) as cache:
        assert cache.size_limit == 1 << 20
    with ChunkCache(tmp_path / "odd", size_limit=(3 << 20) + 1) as cache:
        assert cache.size_limit == (3 << 20) + os.sysconf("SC_PAGE_SIZE")


# -- entries -------------------------------------------------------------------------------


def packed(name: bytes, plain: bytes) -> bytes:
    [(_, value)] = pack_entries([(name, plain)])
    return value


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=70), st.binary(max_size=6000)), max_size=8))
def test_entries_are_packed_together_as_they_are_alone(named: list[tuple[bytes, bytes]]) -> None:
    together = pack_entries([(name, memoryview(plain)) for name, plain in named])
    assert together == [(name, packed(name, plain)) for name, plain in named]
    for (name, plain), (_, value) in zip(named, together, strict=True):
        assert entry.unpack(name, memoryview(value), verify=True) == plain


@pytest.mark.parametrize("wrong", [(b"name", 7), (7, b"plain"), (b"name", None), b"ab", ("name", b"plain")])
def test_what_cannot_be_packed_is_refused(wrong: tuple[bytes, bytes]) -> None:
    with pytest.raises((TypeError, ValueError)):
        pack_entries([(b"good", b"bytes"), wrong])


@given(name=st.binary(min_size=1, max_size=70), plain=st.binary(max_size=300))
def test_an_entry_unpacks_under_its_own_name_only(name: bytes, plain: bytes) -> None:
    value = memoryview(packed(name, plain))
    assert entry.unpack(name, value, verify=True) == plain
    for other in (name + b"x", bytes([name[0] ^ 1]) + name[1:]):
        with pytest.raises(entry.ForeignEntryError):
            entry.unpack(other, value, verify=False)


@given(plain=st.binary(min_size=1, max_size=100), where=st.integers(0, 10**6))
def test_every_flipped_bit_of_an_entry_is_found(plain: bytes, where: int) -> None:
    value = bytearray(packed(b"name", plain))
    bit = where % (len(value) * 8)
    value[bit // 8] ^= 1 << bit % 8
    expected = (
        entry.DamagedEntryError
        if bit // 8 >= entry.HEADER_SIZE or 8 <= bit // 8 < 16
        else entry.ForeignEntryError
    )
    with pytest.raises(expected):
        entry.unpack(b"name", memoryview(value), verify=True)


@given(plain=st.binary(max_size=100), cut=st.integers(1, 200))
def test_a_shortened_entry_is_found(plain: bytes, cut: int) -> None:
    value = packed(b"name", plain)
    with pytest.raises(entry.ForeignEntryError):
        entry.unpack(b"name", memoryview(value[:-cut]), verify=True)


def test_no_memory_of_the_process_gets_into_the_file(tmp_path: Path) -> None:
    """Pages are not full, and what is free on the heap may be a password."""
    secret = b"not for the disk"
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        for number in range(50):
            left = [secret * 250 + b"%d" % each for each in range(500)]
            del left
            cache.put_many(chunks(20 + number, 100))
    assert secret not in (tmp_path / "data.mdb").read_bytes()
