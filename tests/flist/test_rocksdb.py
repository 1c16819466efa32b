"""What is peculiar to a RocksDB database: its columns, its many tables, its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from rocksdict import AccessType, Options, Rdict

from tests.flist.samples import FOLDER, PLAIN, TREE, members_of, read, write
from zerofs.flist import rocksdb
from zerofs.flist.model import Directory, Entry, Kind


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    for name, data in members_of(write("rocksdb", tmp_path / "flist")):
        (unpacked / str(name)).write_bytes(data)
    flist = Rdict(str(unpacked), Options(raw_mode=True), access_type=AccessType.read_only(False))
    live = Rdict(str(tmp_path / "live"), Options(raw_mode=True))
    other = live.create_column_family("other", Options(raw_mode=True))
    for key, value in flist.items():
        live[key] = value
        other[key] = b"noise"
    for database in (other, live, flist):
        database.close()
    assert read(tmp_path / "live", tmp_path / "work") == TREE


def test_many_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocksdb, "_WRITE_BUFFER", 64 << 10)
    tree = {b"": Directory(FOLDER, [Entry(b"%d" % n, Kind.DIR, FOLDER, 4096) for n in range(300)])}
    for number in range(300):
        files = [Entry(b"%d-%0200d" % (number, n), Kind.FILE, PLAIN) for n in range(20)]
        tree[b"%d" % number] = Directory(FOLDER, files)
    flist = write("rocksdb", tmp_path / "flist", tree)
    assert len([name for name, _ in members_of(flist) if str(name).endswith(".sst")]) > 5
    assert read(flist, tmp_path / "work") == tree


def test_nothing_but_the_database_is_packed(tmp_path: Path) -> None:
    names = {str(name) for name, _ in members_of(write("rocksdb", tmp_path / "flist"))}
    assert {name.partition("-")[0].lstrip("0123456789") for name in names} <= {
        "CURRENT",
        "MANIFEST",
        ".sst",
        ".log",
    }
