"""``data.mdb``: opened, and found fit to be trusted or not.

Place: below `environment`, which decides what becomes of a file that is not.

Databases in it: ``chunks`` (name → entry, see `entry`), ``order`` (8-byte big-endian sequence number →
4-byte big-endian length of the plain bytes, then the name: what goes first) and ``meta`` (``layout`` → version;
``dropped`` → when something last was).  When a row's turn comes,
its entry may be gone, or have another row further on.

LMDB's own settings: no ``writemap``, so the file grows as pages are used; no ``sync``, because a commit
that reached the kernel outlives this process whatever ends it, and a host that goes down is noticed (see
`directory`).  Read transactions that end are kept by py-lmdb for reuse, reset, and so pin no snapshot.

SIGBUS: touching a page of the map that the disk cannot give, or that was cut off the file, would end the
process.  Against it the map is guarded (`zerofs._fast.GuardedMap`): such a page reads as zeros and is
counted, and what is handed out for the kernel to read lies in a second mapping that has no such pages.  Besides, a
file shorter than its tree says is not trusted, all pages that a tree leads to were written before (never
mapped sparse), and LMDB's lock file gets its space in advance.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from zerofs._fast import GuardedMap, take_fault
from zerofs.cache.directory import CacheDirectory
from zerofs.cache.entry import LAYOUT
from zerofs.errors import reason_of

MAX_READERS = 2048  # of all processes together
READER_BYTES = 64
SPARE_TRANSACTIONS = 16
_UNWRITTEN_TAIL = 16  # pages at the end that LMDB may count without having written them
_META_LAYOUT = b"layout"
CHUNKS_DATABASE = b"chunks"


class UntrustedError(Exception):
    """The file must not be used; says why."""


class LostPageError(Exception):
    """The disk cannot give a page of the trees."""


class Mapped(NamedTuple):
    """An open file.  Databases are handles within its environment."""

    env: lmdb.Environment
    meta: lmdb._Database
    chunks: lmdb._Database
    order: lmdb._Database
    inode: int
    page_size: int  # bytes
    guard: GuardedMap | None  # None: this kernel cannot map it twice
    path: Path

    def used(self) -> int:
        """Bytes of the file up to the last page that ever was in use."""
        return (self.env.info()["last_pgno"] + 1) * self.page_size

    @contextlib.contextmanager
    def writing(self, database: lmdb._Database) -> Iterator[lmdb.Transaction[Any]]:
        """A write transaction; raises LostPageError where pages were cut off, or one that it read may have been zeros.

        Nothing is committed then, unless the commit itself came across the page: the file must not be used any more.
        """
        try:
            missing = _missing_pages(self.path, self.env, self.page_size)
        except FileNotFoundError:  # set aside by another process
            raise LostPageError from None
        if missing > _UNWRITTEN_TAIL:
            raise LostPageError  # writing would make holes, which read as zeros, of pages that are missed by now
        take_fault()
        with self.env.begin(database, write=True, buffers=True) as transaction:
            yield transaction
            if take_fault():
                raise LostPageError
        if take_fault():
            raise LostPageError

    def close(self) -> None:
        """Unmap it.  No view may be out."""
        if self.guard is not None:
            self.guard.close()
        self.env.close()


def open_data(directory: CacheDirectory, map_size: int) -> Mapped:
    """Open or make the file, with a map of `map_size` bytes or what it uses already (behind the door).

    A `map_size` of 0 is what it was when it was last written to.

    Raises UntrustedError for a file to set aside, OSError and lmdb.Error where the host is at fault.
    """
    data = directory.data
    existed = os.path.lexists(data)
    if existed and not _is_own_file(directory):
        raise UntrustedError("data.mdb is not a file that can be read and written")
    try:
        return _open(directory, map_size)
    except BaseException:
        if not existed:  # half of a file, as on a full disk, would be a damaged one
            data.unlink(missing_ok=True)
        raise


def _open(directory: CacheDirectory, map_size: int) -> Mapped:
    directory.reserve_lock_file(MAX_READERS * READER_BYTES)
    try:
        env = lmdb.Environment(
            str(directory.path),
            map_size=map_size,
            max_dbs=4,
            max_readers=MAX_READERS,
            max_spare_txns=SPARE_TRANSACTIONS,
            sync=False,
            mode=0o600,
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise UntrustedError(f"data.mdb is damaged ({error})") from error
    guard = None
    try:
        guard = _guard(directory.data)
        _check_length(directory, env)  # before any page of its trees is touched
        take_fault()
        mapped = _check_layout(directory, env, guard)
        if take_fault():
            raise UntrustedError("the disk cannot give a page of data.mdb")
    except BaseException:
        if guard is not None:
            guard.close()
        env.close()
        raise
    return mapped


def is_input_output(error: Exception) -> bool:
    """Whether it is EIO; LMDB has it also where a full disk takes a part of what is written."""
    return reason_of(error).endswith(os.strerror(errno.EIO))


def create(path: Path, map_size: int) -> Mapped:
    """Make a new file at `path`, for this process alone; it is not guarded."""
    env = lmdb.Environment(
        str(path),
        map_size=map_size,
        subdir=False,
        max_dbs=4,
        lock=False,
        sync=False,
        mode=0o600,
    )
    try:
        meta, chunks, order = (env.open_db(name) for name in (b"meta", b"chunks", b"order"))
        with env.begin(meta, write=True) as transaction:
            transaction.put(_META_LAYOUT, LAYOUT)
        return Mapped(env, meta, chunks, order, path.stat().st_ino, env.stat()["psize"], None, path)
    except BaseException:
        env.close()
        raise


def _guard(data: Path) -> GuardedMap | None:
    """Guard the map that LMDB has just made of `data`; LMDB does not say where it is, the kernel does."""
    inode = data.stat().st_ino
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, offset, _, number, *_ = line.split()
        if int(number) == inode and access == "r--s" and int(offset, 16) == 0:
            start, end = (int(bound, 16) for bound in span.split("-"))
            try:
                return GuardedMap(address=start, size=end - start)
            except OSError:
                return None
    return None


def _is_own_file(directory: CacheDirectory) -> bool:
    data = directory.data
    readable = os.access(data, os.R_OK | os.W_OK, effective_ids=True)
    return data.is_file() and not data.is_symlink() and readable


def _check_length(directory: CacheDirectory, env: lmdb.Environment) -> None:
    """Refuse a truncated file; give a few pages that LMDB never wrote a place on the disk."""
    page_size = env.stat()["psize"]
    missing = _missing_pages(directory.data, env, page_size)
    if missing > _UNWRITTEN_TAIL:
        raise UntrustedError("data.mdb was truncated")
    if missing > 0:
        os.truncate(directory.data, directory.data.stat().st_size + missing * page_size)


def _missing_pages(data: Path, env: lmdb.Environment, page_size: int) -> int:
    """How many pages the trees count that the file does not have."""
    last: int = env.info()["last_pgno"]
    return last + 1 - data.stat().st_size // page_size


def _check_layout(directory: CacheDirectory, env: lmdb.Environment, guard: GuardedMap | None) -> Mapped:
    try:
        env.reader_check()
        stat = env.stat()
        fresh = not stat["entries"]
        if fresh:
            with env.begin(
                write=True
            ) as transaction:  # one: a file without a layout would be one of another version
                made = env.open_db(b"meta", txn=transaction)
                transaction.put(_META_LAYOUT, LAYOUT, db=made)
        meta = env.open_db(b"meta", create=False)
        with env.begin(meta) as transaction:
            layout = transaction.get(_META_LAYOUT)
        if layout != LAYOUT:
            raise UntrustedError("data.mdb has the layout of another version")
        chunks, order = env.open_db(CHUNKS_DATABASE), env.open_db(b"order")
    except (lmdb.DiskError, lmdb.ReadersFullError):
        raise
    except lmdb.Error as error:
        if is_input_output(error):
            raise  # of a disk, which may only be full
        raise UntrustedError(f"data.mdb is damaged ({error})") from error
    return Mapped(
        env, meta, chunks, order, directory.data.stat().st_ino, stat["psize"], guard, directory.data
    )
