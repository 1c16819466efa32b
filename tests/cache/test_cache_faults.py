"""A cache whose file is damaged: nothing wrong is served, and nothing fails a mount."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

import lmdb
import pytest

from tests.cache.support import LARGE, SIZE, bad_files, chunk, chunks, contents, flip
from zerofs.cache import environment
from zerofs.cache.directory import KEPT_ASIDE
from zerofs.cache.lmdb import ChunkCache

# -- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"garbage" * 5000, b"\xff" * 3, b"SQLite format 3\0" * 9000])
def test_garbage_is_set_aside(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(3, LARGE)) == 3
        assert contents(cache, 3) == chunks(3, LARGE)
    (aside,) = bad_files(tmp_path)
    assert aside.read_bytes() == content
    assert len(caplog.records) == 1 and "set aside" in caplog.text


def test_an_empty_file_is_a_fresh_cache(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").touch()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(3, 100)) == 3
    assert not bad_files(tmp_path)


def test_a_truncated_file_is_set_aside(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(10, LARGE))
    data = tmp_path / "data.mdb"
    for size in (data.stat().st_size // 2, 8192, 5000):
        os.truncate(data, size)
        with ChunkCache(tmp_path, size_limit=SIZE) as cache:
            assert contents(cache, 10) == []
            cache.put_many(chunks(10, LARGE))
        assert len(bad_files(tmp_path)) == KEPT_ASIDE


def test_a_few_missing_pages_at_the_end_cost_what_lay_there(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(10, LARGE))
    data = tmp_path / "data.mdb"
    os.truncate(data, data.stat().st_size - 3 * 4096)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        found = contents(cache, 10)
        assert set(found) <= set(chunks(10, LARGE))
        cache.put_many(chunks(10, LARGE))
        assert contents(cache, 10) == chunks(10, LARGE)


def test_another_layout_is_set_aside(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(1, 100))
    env = lmdb.Environment(str(tmp_path), max_dbs=4, map_size=SIZE)
    with env.begin(env.open_db(b"meta"), write=True) as transaction:
        transaction.put(b"layout", b"0")
    env.close()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 1) == []
    assert len(bad_files(tmp_path)) == 1


def test_an_lmdb_file_of_somebody_else_is_set_aside(tmp_path: Path) -> None:
    env = lmdb.Environment(str(tmp_path), map_size=SIZE)
    with env.begin(write=True) as transaction:
        transaction.put(b"a", b"b")
    env.close()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(2, 100)) == 2
    assert len(bad_files(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["directory", "symlink", "dangling"])
def test_what_is_no_file_is_set_aside(kind: str, tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    data = directory / "data.mdb"
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "directory":
        data.mkdir()
    else:
        data.symlink_to(victim if kind == "symlink" else tmp_path / "nowhere")
    with ChunkCache(directory, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(2, 100)) == 2
    assert data.is_file() and not data.is_symlink()
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_bad_files_do_not_pile_up(tmp_path: Path) -> None:
    for _ in range(4):
        (tmp_path / "data.mdb").write_bytes(b"garbage" * 5000)
        (tmp_path / "data.mdb").chmod(0o600)
        ChunkCache(tmp_path, size_limit=SIZE).close()
    assert len(bad_files(tmp_path)) == KEPT_ASIDE


# -- bits ----------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_chunk_is_found_dropped_and_replaced(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(5, LARGE))
    data = tmp_path / "data.mdb"
    name, plain = chunk(2, LARGE)
    flip(data, data.read_bytes().index(plain) + 1000)  # its beginning alone may lie elsewhere, too
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        with cache.snapshot() as snapshot:
            assert snapshot.find(name) is None
            unchecked = snapshot.find(name, verify=False)
            assert unchecked is not None and unchecked != plain
            assert [snapshot.find(chunk(n, 0)[0]) == chunk(n, LARGE)[1] for n in (0, 1, 3, 4)] == [True] * 4
        assert cache.stats().damaged == 1
        assert cache.put_many([(name, plain)]) == 1
        assert contents(cache, 5) == chunks(5, LARGE)
        assert cache.stats().replaced == 0


def test_who_still_finds_a_damaged_entry_does_not_drop_what_took_its_place(tmp_path: Path) -> None:
    """A snapshot from before goes on finding the damaged bytes."""
    name, plain = chunk(1, LARGE)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many([(name, plain)])
    flip(tmp_path / "data.mdb", (tmp_path / "data.mdb").read_bytes().index(plain) + 1000)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        with cache.snapshot() as before:
            assert before.find(name) is None
            cache.put_many([(name, plain)])
            assert before.find(name) is None
            cache.put_many([chunk(2, 10)])
        assert contents(cache, 3) == [(name, plain), chunk(2, 10)]
        assert cache.stats().damaged == 1


def test_flipped_bits_anywhere_never_give_wrong_bytes(tmp_path: Path) -> None:
    """LMDB refuses what it notices, the checksums refuse the rest; each trial in a process of its own."""
    with ChunkCache(tmp_path / "whole", size_limit=SIZE) as cache:
        cache.put_many([chunk(n, 50 + n * 37) for n in range(120)])
    whole = (tmp_path / "whole" / "data.mdb").read_bytes()
    source = random.Random(5)
    for trial in range(25):
        directory = tmp_path / str(trial)
        directory.mkdir()
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        (directory / "data.mdb").write_bytes(damaged)
        child = os.fork()
        if child == 0:
            status = 3
            try:
                status = _read_all_and_refill(directory)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, trial


def _read_all_and_refill(directory: Path) -> int:
    """Exit status 0: no wrong bytes, and everything is there after it was put again."""
    logging.disable()
    wanted = dict(chunk(n, 50 + n * 37) for n in range(120))
    try:
        with ChunkCache(directory, size_limit=SIZE) as cache:
            for attempt in range(3):
                with cache.snapshot() as snapshot:
                    found = {
                        name: bytes(view) for name in wanted if (view := snapshot.find(name)) is not None
                    }
                if any(wanted[name] != plain for name, plain in found.items()):
                    return 1
                if attempt and len(found) == len(wanted):
                    return 0
                cache.put_many(wanted.items())
        return 2
    finally:
        logging.disable(logging.NOTSET)


def test_an_entry_where_another_belongs_sets_the_file_aside(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, LARGE))
        mapped = cache._environment.mapped
        assert mapped is not None
        first, second = (name for name, _ in chunks(2, 0))
        with mapped.env.begin(mapped.chunks, write=True) as transaction:
            value = transaction.get(first)
            assert value is not None
            transaction.put(second, value)
        with cache.snapshot() as snapshot:
            view = snapshot.find(first)
            assert snapshot.find(second) is None
            assert view == chunk(0, LARGE)[1], "views of the old file stay valid"
        assert cache.stats().replaced == 1
        assert cache.put_many(chunks(2, LARGE)) == 2
        assert contents(cache, 2) == chunks(2, LARGE)
    assert len(bad_files(tmp_path)) == 1


def test_a_disk_that_spoils_file_after_file_is_left_alone(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        for _ in range(environment.MOST_REPLACEMENTS + 1):
            mapped = cache._environment.mapped
            assert mapped is not None
            cache._environment.trouble(mapped, lmdb.CorruptedError("page"))
        assert cache._environment.mapped is None
        assert cache.put_many(chunks(2, 100)) == 0
        assert contents(cache, 2) == []
        assert cache.has_many([chunk(0, 0)[0]]) == [False]
