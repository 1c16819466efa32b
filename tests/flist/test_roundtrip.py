"""What the writers write, the readers read; other programs read it too."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.flist.samples import CHUNK, FOLDER, PLAIN, SCHEMA, TREE, key_of, listing, manifest, read, write
from tests.support.golden import Golden
from zerofs.errors import UsageError, ZerofsError
from zerofs.flist.model import CHUNK_SIZE, Directory, Entry, Kind, Route
from zerofs.flist.source import open_source
from zerofs.flist.writer import FORMATS, open_writer

ROUTER = b"pools: {}\n"


@pytest.mark.parametrize("format", FORMATS)
def test_every_kind_of_entry(tmp_path: Path, format: str) -> None:
    write(format, tmp_path / "flist")
    assert read(tmp_path / "flist", tmp_path / "work") == TREE
    assert list((tmp_path / "work").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"flist", "work"}


@pytest.mark.parametrize("format", FORMATS)
def test_golden_tree_in_every_format(golden_flist: Golden, tmp_path: Path, format: str) -> None:
    tree = read(golden_flist.flist, tmp_path / "work")
    assert read(write(format, tmp_path / "flist", tree), tmp_path / "work") == tree
    assert listing(tree) == manifest(golden_flist.manifest())


@pytest.mark.parametrize("format", ["sqlite", "fl"])
def test_same_tree_gives_same_bytes(tmp_path: Path, format: str) -> None:
    first = write(format, tmp_path / "first").read_bytes()
    assert write(format, tmp_path / "second").read_bytes() == first


@pytest.mark.parametrize("format", ["rocksdb", "sqlite"])
def test_router_travels_in_the_archive(tmp_path: Path, format: str) -> None:
    flist = write(format, tmp_path / "flist", router=ROUTER)
    with open_source(str(flist), workdir=tmp_path / "work") as source:
        assert source.router == ROUTER
        assert source.reader().routes() == ()


def test_routes_travel_in_the_fungi_table(tmp_path: Path) -> None:
    routes = (Route(0, 127, "dir:///a"), Route(128, 255, "zdb://b:9900"), Route(128, 255, "odd://c"))
    flist = write("fl", tmp_path / "flist", routes=routes)
    with open_source(str(flist), workdir=tmp_path / "work") as source:
        assert source.router is None
        reader = source.reader()
        assert reader.routes() == routes
        reader.close()


def test_negative_times_stay_in_fungi_and_are_counted_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = PLAIN._replace(mtime=-86_400, ctime=-1)
    tree = {b"": Directory(FOLDER, [Entry(b"old", Kind.FILE, old)])}
    assert read(write("fl", tmp_path / "fl", tree), tmp_path / "work") == tree
    assert caplog.text == ""
    moved = read(write("sqlite", tmp_path / "sqlite", tree), tmp_path / "work")[b""].entries[0].attributes
    assert (moved.mtime, moved.ctime) == (0, 0)
    assert "2 times that the format cannot hold" in caplog.text


@pytest.mark.parametrize("format", FORMATS)
def test_abort_leaves_nothing(tmp_path: Path, format: str) -> None:
    writer = open_writer(format, tmp_path / "flist", workdir=tmp_path / "work")
    writer.add(b"", TREE[b""])
    writer.abort()
    assert list((tmp_path / "work").iterdir()) == []
    assert not (tmp_path / "flist").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_destination_that_cannot_be_written(tmp_path: Path, format: str) -> None:
    writer = open_writer(format, tmp_path / "missing" / "flist", workdir=tmp_path / "work")
    writer.add(b"", Directory(FOLDER, []))
    with pytest.raises(ZerofsError, match="cannot write"):
        writer.finish()
    assert list((tmp_path / "work").iterdir()) == []
    writer.abort()


@pytest.mark.parametrize("format", FORMATS)
def test_a_flist_without_root_is_not_written(tmp_path: Path, format: str) -> None:
    writer = open_writer(format, tmp_path / "flist", workdir=tmp_path / "work")
    with pytest.raises(ValueError, match="root"):
        writer.finish()
    writer.abort()


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="erofs"):
        open_writer("erofs", tmp_path / "flist")


# -- read by others ------------------------------------------------------------------------


def test_ldb_reads_the_rocksdb_generation(tmp_path: Path) -> None:
    database = _unpacked(write("rocksdb", tmp_path / "flist"), tmp_path)
    record = _ldb(database, "get", f"0x{key_of(b'', 32).encode().hex()}")
    with SCHEMA.Dir.from_bytes(bytes.fromhex(record.strip().removeprefix("0x"))) as root:
        assert len(root.contents) == len(TREE[b""].entries)
        assert root.contents[0].attributes.dir.key == key_of(b"bin", 32)
        aclkey = root.contents[1].aclkey
    owner = _ldb(database, "get", f"0x{aclkey.encode().hex()}")
    with SCHEMA.ACI.from_bytes(bytes.fromhex(owner.strip().removeprefix("0x"))) as aci:
        assert (aci.mode, aci.uid, aci.gid, aci.uname) == (0o100644, 0, 0, "0")


def test_tables_are_those_of_old_releases(tmp_path: Path) -> None:
    database = _unpacked(write("rocksdb", tmp_path / "flist"), tmp_path)
    (table,) = database.glob("*.sst")
    content = table.read_bytes()
    assert b"Snappy" in content  # rocksdb.compression, in the table's properties
    footer = content[-53:]  # checksum type, two block handles padded to 40, version, magic
    assert footer[0] == 1  # CRC32c
    assert int.from_bytes(footer[41:45], "little") == 4


def test_schema_of_the_sqlite_generation(tmp_path: Path, golden: Path) -> None:
    ours = _schema(_unpacked(write("sqlite", tmp_path / "flist"), tmp_path))
    (tmp_path / "golden").mkdir()
    theirs = _schema(_unpacked(golden / "small-sqlite.flist", tmp_path / "golden"))
    assert ours == theirs


def test_rows_of_the_fungi_generation(tmp_path: Path) -> None:
    connection = sqlite3.connect(write("fl", tmp_path / "flist"))
    assert connection.execute("SELECT ino, parent, name, mode FROM inode WHERE parent = 0").fetchall() == [
        (1, 0, "/", 0o40755)
    ]
    rows = connection.execute(
        "SELECT n.size, typeof(b.id), b.id, b.key FROM inode n JOIN block b ON b.ino = n.ino"
        " WHERE n.name = 'big' ORDER BY b.rowid"
    ).fetchall()
    size = CHUNK_SIZE * 2 + 1
    assert rows == [(size, "blob", *CHUNK), (size, "blob", *CHUNK), (size, "blob", b"x", b"y")]
    connection.close()


def _ldb(database: Path, *arguments: str) -> str:
    if shutil.which("ldb") is None:
        pytest.skip("ldb is not installed: apt install rocksdb-tools")
    command = ["ldb", f"--db={database}", "--hex", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _unpacked(flist: Path, directory: Path) -> Path:
    target = directory / "unpacked"
    with tarfile.open(flist) as tar:
        tar.extractall(target, filter="data")
    return target


def _schema(directory: Path) -> list[tuple[str, str, str, int]]:
    connection = sqlite3.connect(directory / "flistdb.sqlite3")
    rows = connection.execute(
        "SELECT m.name, c.name, c.type, c.pk FROM sqlite_master m, pragma_table_info(m.name) c"
        " WHERE m.type = 'table' ORDER BY 1, 2"
    ).fetchall()
    key = connection.execute("SELECT DISTINCT typeof(key), typeof(value) FROM entries").fetchall()
    connection.close()
    return rows + key
