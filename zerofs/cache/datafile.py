"""``data.mdb``: opened, and found fit to be trusted or not.

Place: below `environment`, which decides what becomes of a file that is not.

Databases in it: ``chunks`` (name → entry, see `entry`), ``order`` (8-byte big-endian sequence number →
4-byte length of the plain bytes, then the name: oldest first) and ``meta`` (``layout`` → version;
``dropped`` → when something last was).

LMDB's own settings: no ``writemap``, so the file grows as pages are used; no ``sync``, because a commit
that reached the kernel outlives this process whatever ends it, and a host that goes down is noticed (see
`directory`).  Read transactions that end are kept by py-lmdb for reuse, reset, and so pin no snapshot.

SIGBUS: a page of the map that the disk cannot give, or that was cut off the file while it is mapped,
ends the process that touches it.  Against it: a file shorter than its tree says is not trusted, all pages
that a tree leads to were written before (never mapped sparse), and LMDB's lock file gets its space in
advance.  Against a truncation while it is mapped, or a disk that loses sectors, nothing here helps.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import lmdb

from zerofs.cache.directory import CacheDirectory
from zerofs.cache.entry import LAYOUT

MAX_READERS = 2048  # of all processes together
READER_BYTES = 64
SPARE_TRANSACTIONS = 16
_UNWRITTEN_TAIL = 16  # pages at the end that LMDB may count without having written them
_META_LAYOUT = b"layout"


class UntrustedError(Exception):
    """The file must not be used; says why."""


class Mapped(NamedTuple):
    """An open file.  Databases are handles within its environment."""

    env: lmdb.Environment
    meta: lmdb._Database
    chunks: lmdb._Database
    order: lmdb._Database
    inode: int
    page_size: int  # bytes

    def used(self) -> int:
        """Bytes of the file up to the last page that ever was in use."""
        return (self.env.info()["last_pgno"] + 1) * self.page_size


def open_data(directory: CacheDirectory, map_size: int) -> Mapped:
    """Open or make the file, with a map of `map_size` bytes or what it uses already (behind the door).

    Raises UntrustedError for a file to set aside, OSError and lmdb.Error where the host is at fault.
    """
    data = directory.data
    if os.path.lexists(data) and not _is_own_file(directory):
        raise UntrustedError("data.mdb is not a file that can be read and written")
    directory.reserve_lock_file(MAX_READERS * READER_BYTES)
    try:
        env = lmdb.Environment(
            str(directory.path),
            map_size=map_size,
            max_dbs=4,
            max_readers=MAX_READERS,
            max_spare_txns=SPARE_TRANSACTIONS,
            sync=False,
            meminit=False,
            mode=0o600,
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise UntrustedError(f"data.mdb is damaged ({error})") from error
    try:
        _check_length(directory, env)  # before any page of its trees is touched
        return _check_layout(directory, env)
    except BaseException:
        env.close()
        raise


def _is_own_file(directory: CacheDirectory) -> bool:
    data = directory.data
    readable = os.access(data, os.R_OK | os.W_OK, effective_ids=True)
    return data.is_file() and not data.is_symlink() and readable


def _check_length(directory: CacheDirectory, env: lmdb.Environment) -> None:
    """Refuse a truncated file; give a few pages that LMDB never wrote a place on the disk."""
    size = directory.data.stat().st_size
    page_size = env.stat()["psize"]
    missing = env.info()["last_pgno"] + 1 - size // page_size
    if missing > _UNWRITTEN_TAIL:
        raise UntrustedError("data.mdb was truncated")
    if missing > 0:
        os.truncate(directory.data, size + missing * page_size)


def _check_layout(directory: CacheDirectory, env: lmdb.Environment) -> Mapped:
    try:
        env.reader_check()
        stat = env.stat()
        fresh = not stat["entries"]
        meta = env.open_db(b"meta", create=fresh)
        if fresh:
            with env.begin(meta, write=True) as transaction:
                transaction.put(_META_LAYOUT, LAYOUT)
        with env.begin(meta) as transaction:
            layout = transaction.get(_META_LAYOUT)
        if layout != LAYOUT:
            raise UntrustedError("data.mdb has the layout of another version")
        chunks, order = env.open_db(b"chunks"), env.open_db(b"order")
    except (lmdb.DiskError, lmdb.ReadersFullError):
        raise
    except lmdb.Error as error:
        raise UntrustedError(f"data.mdb is damaged ({error})") from error
    return Mapped(env, meta, chunks, order, directory.data.stat().st_ino, stat["psize"])
