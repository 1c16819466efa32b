"""The fungi generation as its own writers make it, and as a hostile one might."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.flist.samples import TREE, read, write
from zerofs.flist.fungi import FungiReader
from zerofs.flist.model import CHUNK_SIZE, ChunkRef, Directory, Kind, Route

Inode = tuple[object, ...]

ROOT = (1, 0, "/", 0, 0, 0, stat.S_IFDIR | 0o755, 0, 10, 20)


def fungi(path: Path, inodes: Iterable[Inode], *statements: tuple[str, Iterable[Inode]]) -> Path:
    """A file without any index, which readers must not depend on."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE inode (ino INTEGER PRIMARY KEY, parent INTEGER, name VARCHAR(255), size INTEGER, uid INTEGER,"
        " gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);"
        "CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));"
        "CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));"
        "CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));"
    )
    connection.executemany("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", inodes)
    for statement, rows in statements:
        connection.executemany(statement, rows)
    connection.commit()
    connection.close()
    return path


def root_of(path: Path) -> Directory:
    reader = FungiReader(path)
    try:
        directory = reader.directory(reader.root())
        assert directory is not None
        return directory
    finally:
        reader.close()


def file(
    ino: int, name: object, size: object = 0, *, parent: int = 1, mode: int = stat.S_IFREG | 0o644
) -> Inode:
    return (ino, parent, name, size, 0, 0, mode, 0, 0, 0)


def test_the_same_without_indexes(tmp_path: Path) -> None:
    flist = write("fl", tmp_path / "flist")
    connection = sqlite3.connect(flist)
    connection.executescript("DROP INDEX parents; DROP INDEX block_ino;")
    connection.close()
    assert read(flist, tmp_path / "work") == TREE


def test_a_partial_index_is_none(tmp_path: Path) -> None:
    flist = write("fl", tmp_path / "flist")
    connection = sqlite3.connect(flist)
    connection.executescript("DROP INDEX parents; CREATE INDEX parents ON inode (parent) WHERE size > 5;")
    connection.close()
    assert read(flist, tmp_path / "work") == TREE
    reader = FungiReader(flist)
    made = reader._connection.execute("SELECT name FROM temp.sqlite_master").fetchall()
    assert made == [(b"inode_by",)]
    reader.close()


def test_blocks_in_the_order_of_their_rows(tmp_path: Path) -> None:
    rows = [(2, b"c", b"1"), (3, b"x", b"2"), (2, b"a", b"3"), (2, "b", "4")]
    flist = fungi(
        tmp_path / "flist",
        [ROOT, file(3, "other", 1), file(2, "file", CHUNK_SIZE * 3)],
        ("INSERT INTO block VALUES (?, ?, ?)", rows),
    )
    other, found = sorted(root_of(flist).entries, key=lambda entry: entry.size)
    assert found.chunks == (ChunkRef(b"c", b"1"), ChunkRef(b"a", b"3"), ChunkRef(b"b", b"4"))
    assert other.chunks == (ChunkRef(b"x", b"2"),)


def test_sizes_and_owners_out_of_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inodes = [
        ROOT,
        (2, 1, "a", -5, -1, 2**40, stat.S_IFREG | 0o104755, 0, -(2**40), -1),
        (3, 1, "b", 2**63 - 1, 0, 0, stat.S_IFREG, 0, 0, 0),
    ]
    blocks = [(2, b"i", b"k"), (3, b"i", b"k")]
    flist = fungi(tmp_path / "flist", inodes, ("INSERT INTO block VALUES (?, ?, ?)", blocks))
    a, b = root_of(flist).entries
    assert (a.size, a.chunks, a.attributes) == (0, (), (0o4755, 1000, 1000, -1, -(2**40)))
    assert (b.size, len(b.chunks)) == (2**63 - 1, 1)
    assert "2 owners" in caplog.text


def test_times_are_signed(tmp_path: Path) -> None:
    flist = fungi(tmp_path / "flist", [(*ROOT[:8], -3, -4)])
    assert root_of(flist).attributes == (0o755, 0, 0, -4, -3)


def test_names_that_no_directory_can_hold_and_names_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names: list[object] = ["fine", "", ".", "..", "a/b", "x" * 256, None, b"a\0b", "fine", b"\xff\xfe", 12]
    flist = fungi(tmp_path / "flist", [ROOT, *(file(n, name) for n, name in enumerate(names, 2))])
    assert [entry.name for entry in root_of(flist).entries] == [b"fine", b"\xff\xfe", b"12"]
    assert "7 entries with a name" in caplog.text
    assert "1 entries whose name" in caplog.text


def test_a_kind_that_is_unknown_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flist = fungi(tmp_path / "flist", [ROOT, file(2, "odd", mode=0o644), file(3, "even")])
    assert [entry.name for entry in root_of(flist).entries] == [b"even"]
    assert caplog.text.count("unknown kind") == 1


def test_links_and_devices(tmp_path: Path) -> None:
    inodes = [
        ROOT,
        file(2, "link", 99, mode=stat.S_IFLNK | 0o777),
        file(3, "no target", mode=stat.S_IFLNK),
        (4, 1, "disk", 0, 0, 0, stat.S_IFBLK | 0o660, os.makedev(259, 70_000), 0, 0),
    ]
    flist = fungi(tmp_path / "flist", inodes, ("INSERT INTO extra VALUES (?, ?)", [(2, b"to/\xff")]))
    link, empty, disk = root_of(flist).entries
    assert (link.target, link.size) == (b"to/\xff", 4)
    assert (empty.kind, empty.target) == (Kind.LINK, b"")
    assert disk.device == (259, 70_000)


def test_cycles_cannot_be_reached_and_strangers_are_no_directories(tmp_path: Path) -> None:
    folder = stat.S_IFDIR | 0o755
    inodes = [ROOT, file(2, "a", parent=3, mode=folder), file(3, "b", parent=2, mode=folder), file(4, "file")]
    reader = FungiReader(fungi(tmp_path / "flist", inodes))
    assert [entry.name for entry in root_of(tmp_path / "flist").entries] == [b"file"]
    assert reader.directory(b"4") is None
    assert reader.directory(b"99") is None
    reader.close()


def test_routes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(0, 127, "zdb://a"), (100, 255, "s3://b/c"), (5, 4, "x"), (0, 256, "x"), ("0", None, "x")]
    flist = fungi(tmp_path / "flist", [ROOT], ("INSERT INTO route VALUES (?, ?, ?)", rows))
    reader = FungiReader(flist)
    assert reader.routes() == (Route(0, 127, "zdb://a"), Route(100, 255, "s3://b/c"))
    reader.close()
    assert "3 routes" in caplog.text


def test_only_the_inode_table_is_needed(tmp_path: Path) -> None:
    flist = fungi(tmp_path / "flist", [ROOT, file(2, "a", 5)])
    connection = sqlite3.connect(flist)
    connection.executescript("DROP TABLE extra; DROP TABLE block; DROP TABLE route;")
    connection.close()
    assert [entry.name for entry in root_of(flist).entries] == [b"a"]
    reader = FungiReader(flist)
    assert reader.routes() == ()
    reader.close()
