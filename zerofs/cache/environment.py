"""The LMDB environment of a cache directory: one in a process, shared by all of its users.

Place: between `lmdb`, which says what a chunk in the cache is, and the file ``data.mdb``.  This module
opens the file, finds out whether it can be trusted, and replaces it where it cannot.

Databases in it: ``chunks`` (name → entry, see `entry`), ``order`` (8-byte big-endian sequence number →
4-byte length of the plain bytes, then the name: oldest first) and ``meta`` (``layout`` → version;
``dropped`` → when something last was).

LMDB's own settings: no ``writemap``, so the file grows as pages are used; no ``sync``, because a commit
that reached the kernel outlives this process whatever ends it, and a host that goes down is noticed (see
`directory`).  Read transactions that end are kept by py-lmdb for reuse, reset, and so pin no snapshot.

SIGBUS: pages of the file that the disk cannot give, or that somebody cut off while it is mapped, end the
process that touches them.  A file that is shorter than its tree says is refused when it is opened and no
page is ever touched that was not written; against a later truncation only the directory's mode protects.

Threads: any.  `_registry_lock` guards the table of open environments, `_lock` the replacing of one.
A forked child must not use what its parent opened: there, environments answer as if they were empty.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import NamedTuple

import lmdb

from zerofs.cache.directory import CacheDirectory
from zerofs.cache.entry import LAYOUT
from zerofs.errors import CacheError

logger = logging.getLogger(__name__)

MAX_READERS = 2048  # of all processes together; 64 bytes each
SPARE_TRANSACTIONS = 16
SMALLEST_MAP = 1 << 20  # bytes; below this there is no room for a chunk and the trees
MOST_REPLACEMENTS = 3  # per process; a disk that spoils file after file is left alone
_UNWRITTEN_TAIL = 16  # pages at the end that LMDB may count without having written them
_META_LAYOUT = b"layout"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

_registry_lock = threading.Lock()
_registry: dict[tuple[int, int], Environment] = {}
_inherited: list[Environment] = []  # of the parent process; never touched again


class Mapped(NamedTuple):
    """An open file.  Databases are handles within its environment."""

    env: lmdb.Environment
    meta: lmdb._Database
    chunks: lmdb._Database
    order: lmdb._Database
    inode: int

    def used(self) -> int:
        """Bytes of the file up to the last page that ever was in use."""
        return (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]


class Environment:
    """See the module.  Made by `acquire`, given back by `release`."""

    def __init__(self, directory: CacheDirectory, size_limit: int) -> None:
        self.directory = directory
        self.map_size = 0  # bytes
        self.mapped: Mapped | None = None  # None: not usable, all is served uncached
        self.users = 0
        self.replaced = 0  # files set aside since it was opened
        self._lock = threading.Lock()
        self._retired: list[Mapped] = []  # set aside, but views of them may still be out
        self._marked = False
        with directory.door():
            try:
                self.mapped = self._join_and_open(_whole_pages(max(size_limit, SMALLEST_MAP)))
            except BaseException:
                directory.leave(synced=False)
                raise
        if self.mapped is not None:  # LMDB never maps less than is in use
            self.map_size = self.mapped.env.info()["map_size"]

    def before_write(self) -> None:
        """To be called before each write transaction."""
        if not self._marked:
            self.directory.mark_in_use()
            self._marked = True

    def replace(self, broken: Mapped, reason: str) -> None:
        """Set the file of `broken` aside and go on with an empty one, or without a cache.

        Views of `broken` stay valid.  Does nothing where another thread was faster.
        """
        with self._lock:
            if self.mapped is not broken:
                return
            self._retired.append(broken)
            self.mapped = None
            self.replaced += 1
            if self.replaced > MOST_REPLACEMENTS:
                logger.error(
                    "cache %s: %s, and not for the first time; going on without it", self.path, reason
                )
                return
            try:
                with self.directory.door():
                    if _inode(self.directory.data) == broken.inode:
                        self.directory.set_aside(reason)
                    self.mapped = self._open_or_replace()
            except (OSError, lmdb.Error, CacheError, _UntrustedError) as error:
                logger.warning("cache %s: %s, and no new one can be made: %s", self.path, reason, error)

    def close(self, *, keep_mapped: bool) -> None:
        """Put everything on the disk and close.  `keep_mapped`: views are out, so only forget the file."""
        mapped, self.mapped = self.mapped, None
        synced = True
        if mapped is not None:
            try:  # even by who wrote nothing: others may have been killed after writing
                mapped.env.sync(True)
            except lmdb.Error as error:
                synced = False
                logger.warning("cache %s: not all of it reached the disk: %s", self.path, error)
        with self.directory.door():
            if keep_mapped:
                _inherited.append(self)
            else:
                for each in (*self._retired, *([mapped] if mapped is not None else [])):
                    each.env.close()
            self.directory.leave(synced=synced)

    @property
    def path(self) -> Path:
        return self.directory.path

    def _join_and_open(self, map_size: int) -> Mapped | None:
        """Open the file for the first time (behind the door); None where the disk does not let us."""
        try:
            self.map_size = self.directory.join(map_size)
            return self._open_or_replace()
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise CacheError(f"the cache in {self.path} cannot be opened: {error.strerror}") from error
            reason = str(error.strerror)
        except (lmdb.Error, _UntrustedError) as error:
            reason = str(error)
        logger.warning("cache %s: cannot be opened, all is served without it: %s", self.path, reason)
        return None

    def _open_or_replace(self) -> Mapped:
        """Open the file (behind the door); one that is bad is set aside, and a new one made."""
        try:
            return self._open()
        except _UntrustedError as error:
            self.directory.set_aside(str(error))
            return self._open()

    def _open(self) -> Mapped:
        if os.path.lexists(self.directory.data) and not _is_own_file(self.directory.data):
            raise _UntrustedError("data.mdb is not a file that can be read and written")
        self.directory.reserve_lock_file(MAX_READERS * 64)
        try:
            env = lmdb.Environment(
                str(self.path),
                map_size=self.map_size,
                max_dbs=4,
                max_readers=MAX_READERS,
                max_spare_txns=SPARE_TRANSACTIONS,
                sync=False,
                meminit=False,
                mode=0o600,
            )
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            raise _UntrustedError(f"data.mdb is damaged ({error})") from error
        try:
            return self._check(env)
        except BaseException:
            env.close()
            raise

    def _check(self, env: lmdb.Environment) -> Mapped:
        """Find out whether the file is whole and ours, before any page of its trees is touched."""
        size = self.directory.data.stat().st_size
        page_size = env.stat()["psize"]
        missing = env.info()["last_pgno"] + 1 - size // page_size
        if missing > _UNWRITTEN_TAIL:
            raise _UntrustedError("data.mdb was truncated")
        if missing > 0:
            os.truncate(self.directory.data, size + missing * page_size)
        try:
            env.reader_check()
            fresh = not env.stat()["entries"]
            meta = env.open_db(b"meta", create=fresh)
            if fresh:
                with env.begin(meta, write=True) as transaction:
                    transaction.put(_META_LAYOUT, LAYOUT)
            with env.begin(meta) as transaction:
                layout = transaction.get(_META_LAYOUT)
            if layout != LAYOUT:
                raise _UntrustedError("data.mdb has the layout of another version")
            chunks, order = env.open_db(b"chunks"), env.open_db(b"order")
        except (lmdb.DiskError, lmdb.ReadersFullError):
            raise
        except lmdb.Error as error:
            raise _UntrustedError(f"data.mdb is damaged ({error})") from error
        return Mapped(env, meta, chunks, order, _inode(self.directory.data))


class _UntrustedError(Exception):
    """The file must not be used; says why."""


def acquire(path: Path, size_limit: int) -> Environment:
    """The environment of the directory `path`, opened where this process has not done so yet.

    `size_limit` (bytes) bounds the file; who opened it first, in whatever process, decides.
    Raises CacheError where the directory cannot be used.
    """
    directory = CacheDirectory(path)
    with _registry_lock:
        environment = _registry.get(directory.identity)
        if environment is None:
            environment = _registry[directory.identity] = Environment(directory, size_limit)
        environment.users += 1
        return environment


def release(environment: Environment, *, keep_mapped: bool = False) -> None:
    """Give back what `acquire` gave; the last one closes it."""
    with _registry_lock:
        environment.users -= 1
        if environment.users == 0 and _registry.pop(environment.directory.identity, None) is environment:
            environment.close(keep_mapped=keep_mapped)


def _forget_after_fork() -> None:
    """In a child: the parent's transactions and locks are its own."""
    global _registry_lock
    _registry_lock = threading.Lock()
    for environment in _registry.values():
        _inherited.append(environment)
        environment.mapped = None
    _registry.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


def _whole_pages(size: int) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    return -(-size // page) * page


def _inode(path: Path) -> int:
    """The file's inode, 0 where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _is_own_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and os.access(path, os.R_OK | os.W_OK)
