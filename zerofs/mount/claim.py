"""The claim on a mount point: it is fit to be mounted at, and nobody else mounts there meanwhile.

Place: the first step of a mount in `service`.  A lock on the directory that lasts until something is mounted over it.
Main thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from zerofs.errors import MountError, UsageError
from zerofs.mount import mountinfo
from zerofs.mount.options import MountOptions
from zerofs.mount.unmount import clear_target

log = logging.getLogger(__name__)


@contextlib.contextmanager
def claimed_target(options: MountOptions) -> Iterator[Path]:
    """The mount point, without links and fit to be mounted at; nobody else mounts there meanwhile.

    It is created where the ancestor creates it (with ``--ro``); a dead mount at it is taken down.
    """
    target = mountinfo.locate(options.target)
    if options.backend is not None and Path(os.path.realpath(options.backend)) == target:
        raise UsageError(f"{target} cannot be backend and mount point at once", hint="name two directories")
    clear_target(target)
    try:
        if options.read_only and not target.exists():
            target.mkdir(parents=True)
        if not target.is_dir():
            missing = not target.exists()
            raise MountError(
                f"the mount point {target} does not exist" if missing else f"{target} is not a directory",
                hint=f"mkdir {target}" if missing else "name a directory to mount at",
            )
        claim = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"cannot use the mount point {target}: {error.strerror}") from error
    try:
        _claim(claim, target)
        clear_target(target)  # again: somebody may have mounted there before the claim
        yield target
    finally:
        os.close(claim)


def _claim(directory: int, target: Path) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MountError(
            f"{target} is busy: another process is about to mount there", hint="choose another mount point"
        ) from None
    except OSError as error:
        log.debug("%s cannot be locked, two mounts at once would stack: %s", target, error)
