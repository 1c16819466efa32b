"""Private temporary directories that do not outlive their process for long.

Role: a flist is unpacked into a directory that nobody else uses, so two mounts of one flist never meet and a
crash leaves no half-unpacked database for anybody to find.  The directory is held by a flock; whoever
makes the next one removes those whose holder is gone.  Off the way of a read.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

from zerofs.errors import BackendError, reason_of
from zerofs.interruption import uninterrupted

logger = logging.getLogger(__name__)

PREFIX = "zerofs-flist-"


class Scratch:
    """A directory under `workdir`, mode 0700, removed by :meth:`close`.

    Raises BackendError where it cannot be made.
    """

    def __init__(self, workdir: Path) -> None:
        try:
            workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
            sweep(workdir)
            self.path, self._lock = _held_directory(workdir)
        except OSError as error:
            raise BackendError(
                f"cannot unpack below {workdir}: {error.strerror}",
                hint="check its permissions and free space",
            ) from error

    def close(self) -> None:
        if self._lock >= 0:
            with uninterrupted():
                _remove(self.path)
                os.close(self._lock)
                self._lock = -1


class Scratches:
    """Private directories below `workdir`, made when they are asked for and removed together."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._all: list[Scratch] = []

    def new(self) -> Path:
        scratch = Scratch(self._workdir)
        self._all.append(scratch)
        return scratch.path

    def close(self) -> None:
        while self._all:
            self._all.pop().close()


def sweep(workdir: Path) -> int:
    """Remove the directories of processes that are gone; returns how many."""
    swept = 0
    for path in workdir.glob(PREFIX + "*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # just removed, another user's, or nothing of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
            swept += 1
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(lock)
    if swept:
        logger.info("%s: removed %d unpacked flists of processes that are gone", workdir, swept)
    return swept


def _held_directory(workdir: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=workdir))
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # a sweeper came before the lock
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return path, lock
        os.close(lock)  # a sweeper had it, and removed it


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("cannot remove %s: %s", path, reason_of(error))
