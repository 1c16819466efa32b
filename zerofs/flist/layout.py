"""Which files make up the database of a flist, and which generation a directory or file is.

Role: the one place that knows file names; detection goes by content.  Stateless.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path

from zerofs.errors import FlistCorruptError, FlistFormatError

SQLITE_NAME = "flistdb.sqlite3"
ROUTER_NAME = "router.yaml"
MAX_ROUTER = 1 << 20  # bytes
PROFILE_NAME = "zerofs.profile"  # an access profile that is shipped with the flist
MAX_PROFILE = 1 << 20  # bytes

_SQLITE_FILE = re.compile(r"flistdb\.sqlite3(-wal|-journal)?")
_ROCKSDB_FILE = re.compile(r"CURRENT|MANIFEST-[0-9]+|[0-9]+\.(sst|ldb|blob|log)")
_ROCKSDB_TABLE = re.compile(r"[0-9]+\.(sst|ldb|blob)")
_CURRENT = re.compile(rb"MANIFEST-[0-9]+\n?")
_SQLITE_SIDE_FILES = ("-wal", "-journal")
_TAR_BLOCK = 512  # bytes


class Generation(enum.Enum):
    """The three generations of flists."""

    ROCKSDB = "rocksdb"
    SQLITE = "sqlite"
    FUNGI = "fl"


class Container(enum.Enum):
    """What a flist's file is, by its first bytes."""

    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"
    TAR = "tar"
    SQLITE = "sqlite"


_MAGIC = (
    (b"\x1f\x8b", Container.GZIP),
    (b"BZh", Container.BZIP2),
    (b"\xfd7zXZ\0", Container.XZ),
    (b"\x28\xb5\x2f\xfd", Container.ZSTD),
    (b"SQLite format 3\0", Container.SQLITE),
)


def container_of(head: bytes, subject: str) -> Container:
    """What the file that begins with `head` (512 bytes, or all there are) is.

    Raises FlistFormatError, naming `subject`, for bytes that are nothing known.
    """
    for magic, container in _MAGIC:
        if head.startswith(magic):
            return container
    if _is_tar_header(head):
        return Container.TAR
    raise FlistFormatError(f"{subject} is not a flist" if head else f"{subject} is empty, not a flist")


def is_database_file(name: str) -> bool:
    """Whether a file of this name is part of a database; LOCK, LOG and what tools leave behind are not."""
    return _SQLITE_FILE.fullmatch(name) is not None or _ROCKSDB_FILE.fullmatch(name) is not None


def is_immutable_table(name: str) -> bool:
    """Whether RocksDB never writes again to a file of this name, so that a link to it is safe."""
    return _ROCKSDB_TABLE.fullmatch(name) is not None


def generation_of(directory: Path, subject: str) -> Generation:
    """The generation of the database in `directory`.

    Raises FlistFormatError, naming `subject`, where there is none, FlistCorruptError for one that is torn.
    """
    names = {path.name for path in directory.iterdir() if path.is_file()}
    if "CURRENT" in names and any(name.startswith("MANIFEST-") for name in names):
        _check_current(directory / "CURRENT", subject)
        return Generation.ROCKSDB
    if SQLITE_NAME in names:
        return Generation.SQLITE
    raise FlistFormatError(
        f"{subject} holds no flist database: neither CURRENT and MANIFEST-* nor {SQLITE_NAME}"
    )


def database_files(directory: Path) -> list[Path]:
    """The files of the database in `directory`, and its router.yaml, sorted by name; regular files only.

    A symlink to a regular file counts as one.
    """
    return sorted(
        path
        for path in directory.iterdir()
        if (path.name == ROUTER_NAME or is_database_file(path.name)) and path.is_file()
    )


def pending_files(database: Path) -> list[Path]:
    """The journal and write-ahead log beside a SQLite file, if they hold what the file itself does not."""
    sides = [database.with_name(database.name + suffix) for suffix in _SQLITE_SIDE_FILES]
    return [side for side in sides if side.is_file() and side.stat().st_size]


def _check_current(path: Path, subject: str) -> None:
    with path.open("rb") as file:
        content = file.read(256)
    if not _CURRENT.fullmatch(content):
        raise FlistCorruptError(f"{subject}: CURRENT names no manifest")


def _is_tar_header(head: bytes) -> bool:
    if len(head) < _TAR_BLOCK:
        return False
    import tarfile

    try:
        tarfile.TarInfo.frombuf(head[:_TAR_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:  # the checksum does not hold, or it is all zeros
        return False
    return True
