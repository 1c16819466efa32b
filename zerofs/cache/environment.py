"""The LMDB environment of a cache directory: one in a process, shared by all who use it there.

Place: between `lmdb` and `datafile`.  It decides what an error of LMDB or of the disk means, replaces a
file that cannot be trusted, and counts.

Threads: any.  `_registry_lock` guards the table of open environments, `_lock` the replacing of one.
A forked child must not use what its parent opened: there, environments answer as if they were empty.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from pathlib import Path

import lmdb

from zerofs.cache.compaction import compact, discard
from zerofs.cache.datafile import LostPageError, Mapped, UntrustedError, is_input_output, open_data
from zerofs.cache.directory import CacheDirectory
from zerofs.cache.pins import Pins
from zerofs.cache.size import parse_cache_size
from zerofs.cache.trees import find_misfit
from zerofs.cache.usage import Usage
from zerofs.errors import CacheError, reason_of

logger = logging.getLogger(__name__)

SMALLEST_MAP = 1 << 20  # bytes; below this there is no room for a chunk and the trees
MOST_REPLACEMENTS = 3  # per process; a disk that spoils file after file is left alone
PAUSE = 10.0  # seconds without writes after the disk refused one
_FULL = 1 << 20  # bytes; of a disk that has less to give it is said that it is full
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_BROKEN = (
    lmdb.BadDbiError,
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.MapResizedError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)

_registry_lock = threading.Lock()
_registry: dict[tuple[int, int], Environment] = {}
_never_closed: list[Environment] = []  # a parent process has it open, or views of it are still out


class Environment:
    """See the module.  Made by `acquire`, given back by `release`."""

    def __init__(self, directory: CacheDirectory, size_limit: int | None, floor: int) -> None:
        self.directory = directory
        self.map_size = 0  # bytes
        self.floor = floor  # bytes of the disk that stay free
        self.pins = Pins(directory.state)
        self.mapped: Mapped | None = None  # None: not usable, all is served uncached
        self.users = 0
        self.in_use = False  # by who has given it back, and so for good
        self.errors = 0
        self.replaced = 0  # files set aside since it was opened
        self._lock = threading.Lock()
        self._retired: list[Mapped] = []  # set aside, but views of them may still be out
        self._marked = False
        self._resume_writes = 0.0  # time.monotonic()
        self._warned: set[str] = set()
        with directory.door():
            try:
                if size_limit is None and not directory.data.exists():
                    size_limit = parse_cache_size(None, directory.path)
                size = 0 if size_limit is None else _whole_pages(max(size_limit, SMALLEST_MAP))
                self.mapped = self._join_and_open(size)
            except BaseException:
                directory.leave(synced=False)
                raise
        if self.mapped is not None:  # LMDB never maps less than is in use
            self.map_size = self.mapped.env.info()["map_size"]
        self.usage = Usage(directory.path, self.map_size)

    @property
    def path(self) -> Path:
        return self.directory.path

    def writable(self) -> Mapped | None:
        """The open file, unless there is none or the disk has just refused a write."""
        return self.mapped if time.monotonic() >= self._resume_writes else None

    def before_write(self) -> None:
        """To be called before each write transaction."""
        if not self._marked:
            self.directory.mark_in_use()
            self._marked = True

    def trouble(self, mapped: Mapped, error: Exception) -> None:
        """Decide what an error of LMDB or of the disk means, from any thread.  None is passed on."""
        if isinstance(error, _BROKEN):
            self.replace(mapped, f"data.mdb is damaged ({error})")
            return
        self.errors += 1
        kind = "disk"  # all its errors: a disk that fills up answers EIO to what it takes in part, and then ENOSPC
        if isinstance(error, lmdb.ReadersFullError):
            kind = "readers"
            with contextlib.suppress(lmdb.Error):
                mapped.env.reader_check()
        else:
            self._resume_writes = time.monotonic() + PAUSE
        self.warn_once(kind, f"not used for now: {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        """In words: a full disk is called one."""
        reason = reason_of(error)
        if is_input_output(error):
            with contextlib.suppress(OSError):
                disk = os.statvfs(self.path)
                if disk.f_bavail * disk.f_frsize < _FULL:
                    return os.strerror(errno.ENOSPC)
        return reason

    def lost_page(self, mapped: Mapped) -> None:
        """A page of the trees cannot be had: nothing that was read since it was touched can be trusted."""
        self.replace(mapped, "the disk cannot give a page of data.mdb")

    def warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("cache %s: %s", self.path, message)

    def replace(self, broken: Mapped, reason: str) -> None:
        """Set the file of `broken` aside and go on with an empty one, or without a cache.

        Views of `broken` stay valid.  Does nothing where another thread was faster.
        """
        with self._lock:
            if self.mapped is not broken:
                return
            self._retired.append(broken)
            self.mapped = None
            self.errors += 1
            self.replaced += 1
            if self.replaced > MOST_REPLACEMENTS:
                logger.warning("cache %s: %s, once too often; going on without a cache", self.path, reason)
                return
            try:
                with self.directory.door():
                    if self.directory.data_inode() == broken.inode:
                        self.directory.set_aside(reason)
                    self.mapped = self._open_or_replace()
            except (OSError, lmdb.Error, CacheError, UntrustedError) as error:
                logger.warning(
                    "cache %s: %s, and no new one can be made: %s", self.path, reason, self._reason(error)
                )

    def close(self) -> None:
        """Put everything on the disk and close; what is in use is only forgotten."""
        self.usage.close()
        mapped, self.mapped = self.mapped, None
        synced = True
        if mapped is not None:
            try:  # even by who wrote nothing: others may have been killed after writing
                mapped.env.sync(True)
            except lmdb.Error as error:
                synced = False
                logger.warning("cache %s: not all of it reached the disk: %s", self.path, reason_of(error))
        with self.directory.door():
            if self.in_use:
                _never_closed.append(self)
            else:
                for each in (*self._retired, *([mapped] if mapped is not None else [])):
                    each.close()
            self.directory.leave(synced=synced)

    def _join_and_open(self, map_size: int) -> Mapped | None:
        """Open the file for the first time (behind the door); None where the disk does not let us."""
        try:
            self.map_size, alone = self.directory.join(map_size)
            if alone:
                discard(self.directory)
                if self.directory.was_left and (misfit := find_misfit(self.directory.data)) is not None:
                    self.directory.set_aside(misfit)
                self._shrink()
            mapped = self._open_or_replace()
            if alone and not map_size:
                self.directory.declare(mapped.env.info()["map_size"])
            return mapped
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise CacheError(f"the cache in {self.path} cannot be opened: {error.strerror}") from error
            reason = self._reason(error)
        except (lmdb.Error, UntrustedError) as error:
            reason = self._reason(error)
        logger.warning("cache %s: cannot be opened, all is served without it: %s", self.path, reason)
        return None

    def _shrink(self) -> None:
        """Make the file fit the map, where it is larger: with the best of it, or empty where that cannot be written."""
        data = self.directory.data
        if (
            not self.map_size
            or data.is_symlink()
            or not data.is_file()
            or data.stat().st_size <= self.map_size
        ):
            return
        try:
            compact(self.directory, self.map_size)
        except UntrustedError as error:
            self.directory.set_aside(str(error))
        except (lmdb.Error, OSError) as error:
            logger.warning(
                "cache %s: cannot be made smaller (%s): starting an empty one of %d bytes",
                *(self.path, reason_of(error), self.map_size),
            )
            data.unlink()

    def _open_or_replace(self) -> Mapped:
        """Open the file (behind the door); one that is bad is set aside, and a new one made."""
        try:
            return open_data(self.directory, self.map_size)
        except UntrustedError as error:
            self.directory.set_aside(str(error))
            return open_data(self.directory, self.map_size)


def acquire(path: Path, size_limit: int | None, floor: int) -> Environment:
    """The environment of the directory `path`, opened where this process has not done so yet.

    `size_limit` (bytes; None: what it was) bounds the file; who opened it first, in whatever process, decides.  It is
    made smaller where it has to be.  The disk keeps `floor` bytes free; of this process the first decides.
    Raises CacheError where the directory cannot be used.
    """
    directory = CacheDirectory(path)
    with _registry_lock:
        environment = _registry.get(directory.identity)
        if environment is None:
            environment = _registry[directory.identity] = Environment(directory, size_limit, floor)
        environment.users += 1
        return environment


def release(environment: Environment, *, keep_mapped: bool = False) -> None:
    """Give back what `acquire` gave; the last one closes it.

    `keep_mapped`: views are out or a write is under way, so the file must stay where it is in memory.
    """
    with _registry_lock:
        environment.users -= 1
        environment.in_use |= keep_mapped
        if environment.users == 0 and _registry.pop(environment.directory.identity, None) is environment:
            environment.close()


def give_back(path: Path) -> int | None:
    """Write the file of the cache in `path` anew, without its free pages; the bytes of the disk that this frees.

    None where somebody has it open, or it cannot be done; the old file is there then.  Raises CacheError.
    """
    directory = CacheDirectory(path)
    with directory.door():
        if directory.is_in_use() or not directory.data.is_file():
            return None
        discard(directory)
        before = directory.data.stat().st_blocks
        try:
            mapped = open_data(directory, 0)
            bound = mapped.env.info()["map_size"]
            mapped.close()
            compact(directory, bound)
        except (UntrustedError, LostPageError, lmdb.Error, OSError) as error:
            logger.warning("cache %s: cannot be made smaller: %s", path, reason_of(error))
            return None
        return (before - directory.data.stat().st_blocks) * 512


def _forget_after_fork() -> None:
    """In a child: the parent's transactions and locks are its own."""
    global _registry_lock
    _registry_lock = threading.Lock()
    for environment in _registry.values():
        _never_closed.append(environment)
        environment.mapped = None
    _registry.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


def _whole_pages(size: int) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    return -(-size // page) * page
