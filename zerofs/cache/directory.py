"""The cache's directory: whose it is, who uses it at this moment, and what becomes of a bad file.

Place: below `environment`, which opens LMDB in here.  Files: ``data.mdb`` (LMDB), ``lock.mdb``
(LMDB's readers and writer lock), ``users.lock`` (ours), ``recency`` (see `usage`), ``data.mdb.bad-…`` (set aside),
``data.mdb.compacting`` (see `compaction`).

Two locks, both released by the kernel when a process dies:

* the *door*, an exclusive flock of the directory itself, held for the moments in which an
  environment is opened, closed or set aside;
* the *users' lock*, a shared flock of ``users.lock``, held for as long as an environment is open.
  Who gets it exclusively, behind the door, is alone.

``users.lock`` holds one line, written by the first user: the boot of the host, the PID namespace and
the map size.  LMDB's table of readers holds process ids, so all users must share a PID namespace; and
a map that differs between processes would end in pages that one of them cannot see.  The last user
empties the file once everything is on the disk.  A line of another boot therefore means that the host
went down before LMDB's pages were, in whatever order the kernel chose to write them: such a file is
not to be trusted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zerofs import private
from zerofs.errors import CacheError

logger = logging.getLogger(__name__)

DOOR_WAIT = 10.0  # seconds; opening takes milliseconds, so somebody is stopped who takes longer
KEPT_ASIDE = 1  # bad files kept for a look; each may be as large as the cache
BAD_PREFIX = "data.mdb.bad-"


class Users(NamedTuple):
    """The line in ``users.lock``."""

    boot: str
    namespace: int  # inode of the PID namespace
    map_size: int  # bytes


class CacheDirectory:
    """A directory that was found fit to hold a cache.  Raises CacheError where it is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data.mdb"
        self.lock = path / "lock.mdb"
        self.compacting = path / "data.mdb.compacting"  # a new file that is to take its place
        self.state = path / "flists"
        self._users_file = path / "users.lock"
        self._users_fd = -1
        self.was_left = False  # by users of whom the last one did not say goodbye; known by who was alone
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.stat()
        except FileExistsError as error:
            raise _unusable(path, "not a directory") from error
        except OSError as error:
            raise _unusable(path, error.strerror) from error
        _check_owner(path, status)
        self.identity = (status.st_dev, status.st_ino)

    @contextlib.contextmanager
    def door(self) -> Iterator[None]:
        """Hold the door; raises CacheError when somebody else does not let go of it."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + DOOR_WAIT
            progress = 0
            while not _try_flock(fd, fcntl.LOCK_EX):
                if (written := self._compacted()) != progress:  # that may take long, as long as it goes on
                    progress, deadline = written, time.monotonic() + DOOR_WAIT
                if time.monotonic() > deadline:
                    raise _unusable(self.path, f"another process has kept it locked for {DOOR_WAIT:.0f} s")
                time.sleep(0.005)
            yield
        finally:
            os.close(fd)

    def join(self, map_size: int) -> tuple[int, bool]:
        """Become a user (behind the door); the map size in bytes that all users share, and whether there are no others.

        Who is alone says it with `declare` once it is known, where `map_size` is 0.  Raises CacheError, and
        OSError where ``users.lock`` cannot be written.
        """
        fd = os.open(self._users_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            alone = _try_flock(fd, fcntl.LOCK_EX)
            known = _read_users(fd)
            ours = Users(_boot(), _namespace(), map_size)
            if alone:
                if known is not None and known.boot != ours.boot:
                    self.set_aside("the host went down while it was in use")
                self.was_left = known is not None
                _write_users(fd, ours)
            elif known is not None:
                if known.namespace != ours.namespace:
                    raise _unusable(self.path, "in use by processes of another PID namespace")
                ours = known
            if not _try_flock(fd, fcntl.LOCK_SH):
                raise _unusable(self.path, "its users' lock is taken")
        except BaseException:
            os.close(fd)
            raise
        self._users_fd = fd
        return ours.map_size, alone

    def declare(self, map_size: int) -> None:
        """Write down the map size (behind the door, alone)."""
        _write_users(self._users_fd, Users(_boot(), _namespace(), map_size))

    def mark_in_use(self) -> None:
        """Put the line of the users on the disk: to be done before anything else gets written."""
        os.fsync(self._users_fd)

    def leave(self, *, synced: bool) -> None:
        """Stop being a user (behind the door).  `synced`: all that this process wrote is on the disk."""
        if self._users_fd >= 0:
            if synced and _try_flock(self._users_fd, fcntl.LOCK_EX):
                os.ftruncate(self._users_fd, 0)
            os.close(self._users_fd)
            self._users_fd = -1

    def is_in_use(self) -> bool:
        """Whether any process has the cache open (behind the door)."""
        try:
            fd = os.open(self._users_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            return not _try_flock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Put the names in it on the disk."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _compacted(self) -> int:
        """Grows while somebody compacts the file."""
        try:
            return self.compacting.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def data_inode(self) -> int:
        """The inode of the data file, 0 where there is none."""
        try:
            return self.data.stat().st_ino
        except FileNotFoundError:
            return 0

    def set_aside(self, reason: str) -> None:
        """Rename the data file (behind the door) so that a new one can be made; the newest is kept.

        Processes that have it open go on with it; its lock file goes with it, because the table of
        readers in there counts the old file's transactions.
        """
        with contextlib.suppress(FileNotFoundError):
            self.lock.unlink()
        aside = self.path / f"{BAD_PREFIX}{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        try:
            self.data.rename(aside)
        except FileNotFoundError:
            return
        logger.warning("cache %s: %s; set aside as %s, starting an empty one", self.path, reason, aside.name)
        for old in sorted(self.path.glob(f"{BAD_PREFIX}*"))[:-KEPT_ASIDE]:
            try:
                old.unlink()
            except OSError as error:
                logger.warning("cache %s: %s cannot be removed: %s", self.path, old.name, error.strerror)

    def reserve_lock_file(self, size: int) -> None:
        """Make a new lock file of `size` bytes whose space is there for sure.

        LMDB maps it sparse: on a full disk the first reader would end in SIGBUS.
        """
        if self.lock.exists():
            return
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            self.lock.unlink()
            if error.errno != errno.EOPNOTSUPP:
                raise
        finally:
            os.close(fd)


def _unusable(path: Path, why: str | None) -> CacheError:
    return CacheError(
        f"the cache directory {path} cannot be used: {why or 'unknown error'}",
        hint="give a directory of your own on a local disk with --cache",
    )


def _check_owner(path: Path, status: os.stat_result) -> None:
    if reason := private.objection(status):
        raise _unusable(path, reason)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise _unusable(path, "no permission to write to it")


def _try_flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_users(fd: int) -> Users | None:
    """The line of the users; None where there is none, or none that makes sense."""
    words = os.pread(fd, 200, 0).decode("ascii", "replace").split()
    if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
        return None
    return Users(words[0], int(words[1]), int(words[2]))


def _write_users(fd: int, users: Users) -> None:
    line = f"{users.boot} {users.namespace} {users.map_size}\n".encode("ascii")
    os.ftruncate(fd, 0)
    os.pwrite(fd, line, 0)


def _boot() -> str:
    """Names this boot of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0
