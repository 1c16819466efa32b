"""Empties a directory without ever leaving it: what ``--reset`` does to the backend.

Role: removes a tree entry by entry through one open directory.  Every step down is an ``openat2`` that
refuses symbolic links and mount points, bind mounts of the same file system included; every step up
must lead back to the directory that it came from.  So neither a link nor a mount inside the tree, nor
somebody who moves things about meanwhile, leads it outside.  Depth costs no stack and no descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

from zerofs.errors import BackendError
from zerofs.mount._linux import open_beneath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

Identity = tuple[int, int]  # device and inode


class _Level:
    """A directory that is being emptied."""

    def __init__(self, name: str, identity: Identity, pending: list[tuple[str, bool]]) -> None:
        self.name = name  # in its parent
        self.identity = identity
        self.pending = pending  # names and whether the listing calls them directories
        self.kept = False  # something in it stays, so it stays


class _Walk:
    """The state of one emptying: the way down to the one directory that is open."""

    def __init__(self, top: Path, keep: Collection[tuple[str, ...]]) -> None:
        self.top = top
        self.keep = keep
        self.mounts: list[Path] = []
        self.fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.levels = [self._level("")]

    def run(self) -> None:
        try:
            while self.levels:
                level = self.levels[-1]
                if level.pending:
                    self._take(level, *level.pending.pop())
                else:
                    self._ascend(level)
        finally:
            os.close(self.fd)

    def _level(self, name: str) -> _Level:
        with os.scandir(self.fd) as entries:
            pending = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        return _Level(name, _identity(self.fd), pending)

    def _path(self, name: str) -> Path:
        return self.top.joinpath(*(level.name for level in self.levels), name)

    def _take(self, level: _Level, name: str, is_directory: bool) -> None:
        here = (*(above.name for above in self.levels[1:]), name)
        if here in self.keep:
            level.kept = True
            return
        try:
            if is_directory:
                self._descend(name)
            else:
                os.unlink(name, dir_fd=self.fd)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EBUSY):  # a mount point: a directory, a file
                self.mounts.append(self._path(name))
                level.kept = True
            elif error.errno != errno.ENOENT:
                raise _failure(self._path(name), error) from error

    def _descend(self, name: str) -> None:
        try:
            child = open_beneath(self.fd, name, _DIRECTORY)
        except PermissionError:
            _permit(self.fd, name)
            child = open_beneath(self.fd, name, _DIRECTORY)
        os.close(self.fd)
        self.fd = child
        self.levels.append(self._level(name))

    def _ascend(self, level: _Level) -> None:
        self.levels.pop()
        if not self.levels:
            return
        parent = os.open("..", _DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = parent
        above = self.levels[-1]
        if _identity(parent) != above.identity:
            raise BackendError(f"{self._path(level.name)} was moved away while the backend was being emptied")
        if level.kept:
            above.kept = True
            return
        try:
            os.rmdir(level.name, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.EBUSY:
                above.kept = True
            elif error.errno != errno.ENOENT:
                raise _failure(self._path(level.name), error) from error


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _permit(dir_fd: int, name: str) -> None:
    """Let the owner into a directory; overlayfs leaves its work directory without any permission."""
    fd = open_beneath(dir_fd, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        Path(f"/proc/self/fd/{fd}").chmod(stat.S_IRWXU)
    finally:
        os.close(fd)


def _failure(path: Path, error: OSError) -> BackendError:
    hint = {
        errno.EPERM: "it may be immutable: see lsattr, chattr -i",
        errno.ENOTEMPTY: "something still writes to the backend: end it first",
        errno.ENOSYS: "--reset needs Linux 5.6 or later",
    }.get(error.errno or 0)
    return BackendError(f"cannot empty the backend: {path}: {error.strerror}", hint=hint)


def empty(directory: Path, *, keep: Collection[Path] = ()) -> list[Path]:
    """Remove everything in `directory`, not itself; returns the mount points that were left alone.

    What `keep` names (absolute, without links) stays, with the directories on the way to it.  `directory`
    may be a mount point.  Raises BackendError where an entry cannot be removed.
    """
    parts = {path.relative_to(directory).parts for path in keep if path.is_relative_to(directory)}
    try:
        walk = _Walk(directory, parts)
    except OSError as error:
        raise _failure(directory, error) from error
    walk.run()
    return walk.mounts
