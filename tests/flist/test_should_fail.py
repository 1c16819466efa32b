"""Flists that must be refused, each named by the reason, with one line and nothing left behind."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sqlite3
import struct
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cramjam
import pytest

from tests.flist.samples import SCHEMA, archive, key_of, members_of, read, sqlite_directory, write
from zerofs.errors import (
    FlistCorruptError,
    FlistError,
    FlistFormatError,
    FlistNotFoundError,
    FlistTooLargeError,
    FlistUnsafeError,
)
from zerofs.flist import container
from zerofs.flist.source import open_source
from zerofs.flist.sqlitefile import connect, reporting

Maker = Callable[[Path], Path]
CASES: dict[str, tuple[type[FlistError], Maker]] = {}


def refused(error: type[FlistError]) -> Callable[[Maker], Maker]:
    """Registers what makes the flist; the name of the case is the function's."""

    def register(maker: Maker) -> Maker:
        CASES[maker.__name__.strip("_").replace("_", "-")] = (error, maker)
        return maker

    return register


@pytest.mark.parametrize("reason", CASES)
def test_should_fail(reason: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    error, maker = CASES[reason]
    (tmp_path / "made").mkdir()
    flist = maker(tmp_path / "made")
    before = _everything_below(tmp_path)
    with pytest.raises(FlistError) as caught:
        read(flist, tmp_path / "work")
    assert type(caught.value) is error, caught.value
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert _everything_below(tmp_path) - {"work"} == before
    assert not (tmp_path / "work").exists() or not any((tmp_path / "work").iterdir())


def _everything_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


# -- not a flist ---------------------------------------------------------------------------


@refused(FlistNotFoundError)
def _nothing_there(directory: Path) -> Path:
    return directory / "nothing"


@refused(FlistNotFoundError)
def _below_a_file(directory: Path) -> Path:
    (directory / "file").touch()
    return directory / "file" / "flist"


@refused(FlistFormatError)
def _empty_file(directory: Path) -> Path:
    return _file(directory, b"")


@refused(FlistFormatError)
def _text_file(directory: Path) -> Path:
    return _file(directory, b"not a flist\n" * 100)


@refused(FlistFormatError)
def _zeros(directory: Path) -> Path:
    return _file(directory, bytes(10240))


@refused(FlistFormatError)
def _empty_directory(directory: Path) -> Path:
    return directory


@refused(FlistFormatError)
def _fifo(directory: Path) -> Path:
    os.mkfifo(directory / "fifo")
    return directory / "fifo"


@refused(FlistFormatError)
def _archive_without_database(directory: Path) -> Path:
    return archive(directory / "flist", [("etc/passwd", b"root")])


@refused(FlistFormatError)
def _database_below_the_top_of_the_archive(directory: Path) -> Path:
    members = members_of(write("sqlite", directory / "right"))
    return archive(directory / "flist", [(f"below/{name}", data) for name, data in members])


@refused(FlistFormatError)
def _other_sqlite_database(directory: Path) -> Path:
    return _sqlite(directory, "CREATE TABLE bookmarks (url TEXT)")


# -- archives made to harm -----------------------------------------------------------------


@refused(FlistUnsafeError)
def _absolute_member(directory: Path) -> Path:
    return _with_member(directory, tarfile.TarInfo("/etc/cron.d/evil"))


@refused(FlistUnsafeError)
def _absolute_directory(directory: Path) -> Path:
    return _with_member(directory, _typed("/etc", tarfile.DIRTYPE))


@refused(FlistUnsafeError)
def _dotdot_member(directory: Path) -> Path:
    return _with_member(directory, tarfile.TarInfo("../evil"))


@refused(FlistUnsafeError)
def _dotdot_in_the_middle(directory: Path) -> Path:
    return _with_member(directory, tarfile.TarInfo("a/../../evil"))


@refused(FlistUnsafeError)
def _dotdot_directory(directory: Path) -> Path:
    return _with_member(directory, _typed("..", tarfile.DIRTYPE))


@refused(FlistUnsafeError)
def _symlink_member(directory: Path) -> Path:
    return _with_member(directory, _typed("CURRENT", tarfile.SYMTYPE, "/etc/passwd"))


@refused(FlistUnsafeError)
def _hard_link_member(directory: Path) -> Path:
    return _with_member(directory, _typed("CURRENT", tarfile.LNKTYPE, "flistdb.sqlite3"))


@refused(FlistUnsafeError)
def _device_member(directory: Path) -> Path:
    return _with_member(directory, _typed("sda", tarfile.BLKTYPE))


@refused(FlistUnsafeError)
def _character_device_member(directory: Path) -> Path:
    return _with_member(directory, _typed("mem", tarfile.CHRTYPE))


@refused(FlistUnsafeError)
def _fifo_member(directory: Path) -> Path:
    return _with_member(directory, _typed("router.yaml", tarfile.FIFOTYPE))


@refused(FlistTooLargeError)
def _too_many_members(directory: Path) -> Path:
    return archive(directory / "flist", [(f"f{n}", b"") for n in range(10_001)], "w")


@refused(FlistTooLargeError)
def _router_without_end(directory: Path) -> Path:
    return archive(directory / "flist", [("router.yaml", bytes(2 << 20))])


@refused(FlistTooLargeError)
def _extended_header_without_end(directory: Path) -> Path:
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 3 << 20
    return _file(directory, gzip.compress(header.tobuf() + bytes(header.size)))


@refused(FlistCorruptError)
def _headers_nested_without_end(directory: Path) -> Path:
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME
    header.size = 1
    return _file(directory, gzip.compress((header.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 5000))


@refused(FlistTooLargeError)
def _sparse_map_without_end(directory: Path) -> Path:
    member = tarfile.TarInfo("flistdb.sqlite3")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    data = b"1000000000\n" + b"1\n" * (2 << 20)
    member.size = len(data)
    return _file(directory, gzip.compress(member.tobuf(tarfile.PAX_FORMAT) + data))


@refused(FlistUnsafeError)
def _sparse_member(directory: Path) -> Path:
    member = tarfile.TarInfo("flistdb.sqlite3")
    member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000"}
    return _file(directory, gzip.compress(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)))


@refused(FlistCorruptError)
def _member_of_negative_size(directory: Path) -> Path:
    member = tarfile.TarInfo("note")
    member.size = -1024
    return _file(directory, gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, cramjam.zstd.compress])
def test_zip_bomb(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    header = tarfile.TarInfo("flistdb.sqlite3")
    header.size = 16 << 20
    bomb = _file(tmp_path, bytes(compress(header.tobuf() + bytes(header.size))))
    assert bomb.stat().st_size < 50_000
    with (
        open_source(str(bomb), workdir=tmp_path / "work", max_size=1 << 20) as source,
        pytest.raises(FlistTooLargeError, match="1048576 bytes"),
    ):
        source.reader()
    assert list((tmp_path / "work").iterdir()) == []


def test_plain_archive_over_the_bound(tmp_path: Path) -> None:
    flist = archive(tmp_path / "flist", [("flistdb.sqlite3", bytes(100_000))], "w")
    with (
        open_source(str(flist), workdir=tmp_path / "work", max_size=50_000) as source,
        pytest.raises(FlistTooLargeError),
    ):
        source.reader()


def test_log_of_an_unpacked_database_over_the_bound(tmp_path: Path) -> None:
    directory = _unpacked(tmp_path, "rocksdb")
    (directory / "000099.log").write_bytes(bytes(100_000))
    with (
        open_source(str(directory), workdir=tmp_path / "work", max_size=50_000) as source,
        pytest.raises(FlistTooLargeError),
    ):
        source.reader()


# -- damaged -------------------------------------------------------------------------------


def _truncated(directory: Path, compress: Callable[[bytes], bytes]) -> Path:
    plain = gzip.decompress(write("sqlite", directory / "right").read_bytes())
    packed = bytes(compress(plain))
    return _file(directory, packed[: len(packed) * 2 // 3])


@refused(FlistCorruptError)
def _truncated_gzip(directory: Path) -> Path:
    return _truncated(directory, gzip.compress)


@refused(FlistCorruptError)
def _truncated_bzip2(directory: Path) -> Path:
    return _truncated(directory, bz2.compress)


@refused(FlistCorruptError)
def _truncated_xz(directory: Path) -> Path:
    return _truncated(directory, lzma.compress)


@refused(FlistCorruptError)
def _truncated_zstd(directory: Path) -> Path:
    return _truncated(directory, cramjam.zstd.compress)


@refused(FlistCorruptError)
def _truncated_tar(directory: Path) -> Path:
    return _truncated(directory, bytes)


@refused(FlistCorruptError)
def _damaged_gzip(directory: Path) -> Path:
    packed = bytearray(write("sqlite", directory / "right").read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    return _file(directory, packed)


@refused(FlistCorruptError)
def _damaged_bzip2(directory: Path) -> Path:
    return _file(directory, b"BZh9" + bytes(1000))


@refused(FlistCorruptError)
def _damaged_second_header(directory: Path) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("first"))
        tar.addfile(tarfile.TarInfo("second"))
    content = bytearray(plain.getvalue())
    content[512 + 10] ^= 0xFF
    return _file(directory, content)


@refused(FlistCorruptError)
def _missing_root_record_sqlite(directory: Path) -> Path:
    return sqlite_directory(directory / "flist", {key_of(b"bin"): SCHEMA.Dir.new_message().to_bytes()})


@refused(FlistCorruptError)
def _missing_root_record_rocksdb(directory: Path) -> Path:
    from zerofs.flist.archive import replacing, write_archive
    from zerofs.flist.rocksdb import RocksdbWriter

    writer = RocksdbWriter(directory / "unused", workdir=directory)
    writer._put(b"other", b"record")
    with replacing(directory / "flist") as out:
        write_archive(out, writer._close(), None)
    writer.abort()
    return directory / "flist"


@refused(FlistCorruptError)
def _missing_root_record_fungi(directory: Path) -> Path:
    return _sqlite(
        directory,
        "CREATE TABLE inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime)",
        "INSERT INTO inode VALUES (1, 0, 'not the root', 0, 0, 0, 16877, 0, 0, 0)",
    )


@refused(FlistCorruptError)
def _root_record_is_noise(directory: Path) -> Path:
    return sqlite_directory(directory / "flist", {key_of(b""): os.urandom(64)})


@refused(FlistCorruptError)
def _root_record_is_empty(directory: Path) -> Path:
    return sqlite_directory(directory / "flist", {key_of(b""): b""})


@refused(FlistCorruptError)
def _root_record_is_text(directory: Path) -> Path:
    return sqlite_directory(directory / "flist", {key_of(b""): 12345})  # type: ignore[dict-item]


@refused(FlistCorruptError)
def _truncated_record(directory: Path) -> Path:
    record = SCHEMA.Dir.new_message(contents=[{"name": "a" * 100}]).to_bytes()
    return sqlite_directory(directory / "flist", {key_of(b""): record[:-16]})


@refused(FlistCorruptError)
def _damaged_owner(directory: Path) -> Path:
    root = SCHEMA.Dir.new_message(aclkey="owner").to_bytes()
    return sqlite_directory(directory / "flist", {key_of(b""): root, "owner": b"\xff" * 40})


@refused(FlistCorruptError)
def _truncated_sqlite_database(directory: Path) -> Path:
    unpacked = _unpacked(directory, "sqlite")
    os.truncate(unpacked / "flistdb.sqlite3", 5000)
    return unpacked


@refused(FlistCorruptError)
def _truncated_fungi(directory: Path) -> Path:
    flist = write("fl", directory / "flist")
    os.truncate(flist, flist.stat().st_size // 2)
    return flist


@refused(FlistFormatError)
def _no_table_of_entries(directory: Path) -> Path:
    unpacked = directory / "unpacked"
    unpacked.mkdir()
    _sqlite(directory, "CREATE TABLE entry (key)").rename(unpacked / "flistdb.sqlite3")
    return unpacked


@refused(FlistFormatError)
def _inodes_that_never_end(directory: Path) -> Path:
    columns = "ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime"
    return _sqlite(
        directory,
        f"CREATE VIEW inode AS WITH RECURSIVE t({columns}) AS (VALUES (1, 0, '/', 0, 0, 0, 16877, 0, 0, 0)"
        f" UNION ALL SELECT ino + 1, 1, 'n', 0, 0, 0, 33188, 0, 0, 0 FROM t) SELECT {columns} FROM t",
    )


@refused(FlistFormatError)
def _entries_that_are_computed(directory: Path) -> Path:
    return _sqlite(directory, "CREATE TABLE entries (key, value AS (zeroblob(1000000000)))")


@refused(FlistCorruptError)
def _inode_with_text_for_a_size(directory: Path) -> Path:
    return _sqlite(
        directory,
        "CREATE TABLE inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime)",
        "INSERT INTO inode VALUES (1, 0, '/', 'large', 0, 0, 16877, 0, 0, 0)",
    )


@refused(FlistCorruptError)
def _inodes_that_share_their_chunks(directory: Path) -> Path:
    return _sqlite(
        directory,
        "CREATE TABLE inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime)",
        "CREATE TABLE block (ino, id, key)",
        "INSERT INTO inode VALUES (1, 0, '/', 0, 0, 0, 16877, 0, 0, 0)",
        "INSERT INTO inode VALUES (2, 1, 'a', 524288, 0, 0, 33188, 0, 0, 0)",
        "INSERT INTO inode VALUES (2, 1, 'b', 524288, 0, 0, 33188, 0, 0, 0)",
        "INSERT INTO block VALUES (2, 'id', 'key')",
    )


@refused(FlistCorruptError)
def _record_that_claims_entries_without_end(directory: Path) -> Path:
    """2^29 - 1 entries in a list of structs without a word."""
    return sqlite_directory(directory / "flist", {key_of(b""): _list_of_nothing((1 << 29) - 1)})


@refused(FlistCorruptError)
def _record_of_entries_that_hold_nothing(directory: Path) -> Path:
    """A megabyte of zeros, each word of which pays for four of them."""
    return sqlite_directory(directory / "flist", {key_of(b""): _list_of_nothing(500_000, bytes(1 << 20))})


def _list_of_nothing(count: int, padding: bytes = b"") -> bytes:
    """A directory's record whose contents are `count` structs of no size."""
    root = struct.pack("<Q", 5 << 48)  # no data, five pointers
    contents = struct.pack("<Q", 2 << 2 | 1 | 7 << 32)  # a list of structs, behind two more pointers
    tag = struct.pack("<Q", count << 2)
    words = root + bytes(16) + contents + bytes(16) + tag + padding
    return struct.pack("<II", 0, len(words) // 8) + words


@refused(FlistCorruptError)
def _rocksdb_without_its_table(directory: Path) -> Path:
    unpacked = _unpacked(directory, "rocksdb")
    for table in unpacked.glob("*.sst"):
        table.unlink()
    return unpacked


@refused(FlistCorruptError)
def _rocksdb_with_a_damaged_table(directory: Path) -> Path:
    unpacked = _unpacked(directory, "rocksdb")
    for table in unpacked.glob("*.sst"):
        content = bytearray(table.read_bytes())
        content[100:200] = bytes(100)
        table.write_bytes(content)
    return unpacked


@refused(FlistCorruptError)
def _rocksdb_with_a_damaged_manifest(directory: Path) -> Path:
    unpacked = _unpacked(directory, "rocksdb")
    for manifest in unpacked.glob("MANIFEST-*"):
        manifest.write_bytes(b"noise" * 100)
    return unpacked


@refused(FlistCorruptError)
def _current_that_climbs(directory: Path) -> Path:
    unpacked = _unpacked(directory, "rocksdb")
    (unpacked / "CURRENT").write_bytes(b"MANIFEST-../../etc/passwd\n")
    return unpacked


@refused(FlistFormatError)
def _current_is_a_fifo(directory: Path) -> Path:
    unpacked = _unpacked(directory, "rocksdb")
    (unpacked / "CURRENT").unlink()
    os.mkfifo(unpacked / "CURRENT")
    return unpacked


def test_a_query_that_never_ends_is_stopped(tmp_path: Path) -> None:
    flist = write("fl", tmp_path / "flist")
    with closing(connect(flist, "flist")) as connection, pytest.raises(FlistCorruptError), reporting("flist"):
        connection.execute("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT sum(n) FROM t")


# -- and what only looks dangerous ---------------------------------------------------------


@pytest.mark.parametrize("root", ["./", ".", "/", ""])
def test_the_root_member_is_skipped_however_it_is_spelt(tmp_path: Path, root: str) -> None:
    member = tarfile.TarInfo(root)
    member.type = tarfile.DIRTYPE
    right = write("sqlite", tmp_path / "right")
    flist = archive(tmp_path / "flist", [(member, b""), *members_of(right)])
    assert read(flist, tmp_path / "work") == read(right, tmp_path / "work")


def test_members_that_are_no_database_are_left_packed(tmp_path: Path) -> None:
    members = [
        ("LOCK", b""),
        ("LOG", b"x"),
        ("note.txt", b"x"),
        ("a/b", b"x"),
        (_typed("a", tarfile.DIRTYPE), b""),
    ]
    flist = archive(tmp_path / "flist", [*members, *members_of(write("sqlite", tmp_path / "right"))])
    (tmp_path / "target").mkdir()
    with flist.open("rb") as file:
        container.unpack(
            file,
            container.Container.GZIP,
            tmp_path / "target",
            subject="flist",
            max_size=1 << 20,
            max_members=10,
        )
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["flistdb.sqlite3"]


# -- making them ---------------------------------------------------------------------------


def _file(directory: Path, content: bytes | bytearray) -> Path:
    path = directory / "flist"
    path.write_bytes(content)
    return path


def _with_member(directory: Path, member: tarfile.TarInfo) -> Path:
    members = members_of(write("sqlite", directory / "right"))
    return archive(directory / "flist", [*members, (member, b"evil" if member.isreg() else b"")])


def _typed(name: str, type: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type, target
    return member


def _unpacked(directory: Path, format: str) -> Path:
    target = directory / "unpacked"
    target.mkdir()
    for name, data in members_of(write(format, directory / "right")):
        (target / str(name)).write_bytes(data)
    return target


def _sqlite(directory: Path, *statements: str) -> Path:
    connection = sqlite3.connect(directory / "flist")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return directory / "flist"
