"""Flists that are none, or damaged, are refused, each named by the reason."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cramjam
import pytest

from tests.flist.refusals import Cases, check_refused, database_of, file_of, registering, unpacked_of
from tests.flist.samples import SCHEMA, archive, key_of, members_of, sqlite_directory, write
from zerofs.errors import FlistCorruptError, FlistFormatError, FlistNotFoundError
from zerofs.flist.sqlitefile import connect, reporting

CASES: Cases = {}
refused = registering(CASES)


@pytest.mark.parametrize("reason", CASES)
def test_should_fail(reason: str, tmp_path: Path) -> None:
    check_refused(*CASES[reason], tmp_path)


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
    return file_of(directory, b"")


@refused(FlistFormatError)
def _text_file(directory: Path) -> Path:
    return file_of(directory, b"not a flist\n" * 100)


@refused(FlistFormatError)
def _zeros(directory: Path) -> Path:
    return file_of(directory, bytes(10240))


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
    return database_of(directory, "CREATE TABLE bookmarks (url TEXT)")


# -- damaged -------------------------------------------------------------------------------


def _truncated(directory: Path, compress: Callable[[bytes], bytes]) -> Path:
    plain = gzip.decompress(write("sqlite", directory / "right").read_bytes())
    packed = bytes(compress(plain))
    return file_of(directory, packed[: len(packed) * 2 // 3])


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
    return file_of(directory, packed)


@refused(FlistCorruptError)
def _damaged_bzip2(directory: Path) -> Path:
    return file_of(directory, b"BZh9" + bytes(1000))


@refused(FlistCorruptError)
def _damaged_second_header(directory: Path) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("first"))
        tar.addfile(tarfile.TarInfo("second"))
    content = bytearray(plain.getvalue())
    content[512 + 10] ^= 0xFF
    return file_of(directory, content)


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
    return database_of(
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
    unpacked = unpacked_of(directory, "sqlite")
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
    database_of(directory, "CREATE TABLE entry (key)").rename(unpacked / "flistdb.sqlite3")
    return unpacked


@refused(FlistFormatError)
def _inodes_that_never_end(directory: Path) -> Path:
    columns = "ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime"
    return database_of(
        directory,
        f"CREATE VIEW inode AS WITH RECURSIVE t({columns}) AS (VALUES (1, 0, '/', 0, 0, 0, 16877, 0, 0, 0)"
        f" UNION ALL SELECT ino + 1, 1, 'n', 0, 0, 0, 33188, 0, 0, 0 FROM t) SELECT {columns} FROM t",
    )


@refused(FlistFormatError)
def _entries_that_are_computed(directory: Path) -> Path:
    return database_of(directory, "CREATE TABLE entries (key, value AS (zeroblob(1000000000)))")


@refused(FlistCorruptError)
def _inode_with_text_for_a_size(directory: Path) -> Path:
    return database_of(
        directory,
        "CREATE TABLE inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime)",
        "INSERT INTO inode VALUES (1, 0, '/', 'large', 0, 0, 16877, 0, 0, 0)",
    )


@refused(FlistCorruptError)
def _inodes_that_share_their_chunks(directory: Path) -> Path:
    return database_of(
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
    unpacked = unpacked_of(directory, "rocksdb")
    for table in unpacked.glob("*.sst"):
        table.unlink()
    return unpacked


@refused(FlistCorruptError)
def _rocksdb_with_a_damaged_table(directory: Path) -> Path:
    unpacked = unpacked_of(directory, "rocksdb")
    for table in unpacked.glob("*.sst"):
        content = bytearray(table.read_bytes())
        content[100:200] = bytes(100)
        table.write_bytes(content)
    return unpacked


@refused(FlistCorruptError)
def _rocksdb_with_a_damaged_manifest(directory: Path) -> Path:
    unpacked = unpacked_of(directory, "rocksdb")
    for manifest in unpacked.glob("MANIFEST-*"):
        manifest.write_bytes(b"noise" * 100)
    return unpacked


@refused(FlistCorruptError)
def _current_that_climbs(directory: Path) -> Path:
    unpacked = unpacked_of(directory, "rocksdb")
    (unpacked / "CURRENT").write_bytes(b"MANIFEST-../../etc/passwd\n")
    return unpacked


@refused(FlistFormatError)
def _current_is_a_fifo(directory: Path) -> Path:
    unpacked = unpacked_of(directory, "rocksdb")
    (unpacked / "CURRENT").unlink()
    os.mkfifo(unpacked / "CURRENT")
    return unpacked


def test_a_query_that_never_ends_is_stopped(tmp_path: Path) -> None:
    flist = write("fl", tmp_path / "flist")
    with closing(connect(flist, "flist")) as connection, pytest.raises(FlistCorruptError), reporting("flist"):
        connection.execute("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT sum(n) FROM t")
