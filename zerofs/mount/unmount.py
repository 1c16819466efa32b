"""Takes mounts down, and recognises those that a killed process left behind.

Role: the one place that unmounts; used by the backend, the overlay, the service and ``zerofs umount``.  A
mount that is in use is detached: it vanishes from here and ends with its last user.  Without root, FUSE
mounts are taken down by the set-user-id ``fusermount``.  Runs in the caller's thread; no locks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from zerofs.errors import MountError
from zerofs.mount import mountinfo
from zerofs.mount._linux import MNT_DETACH, MNT_FORCE, UMOUNT_NOFOLLOW, umount
from zerofs.mount.mountinfo import Mount

logger = logging.getLogger(__name__)

_FUSERMOUNT_SECONDS = 20.0
_NOT_MOUNTED = (errno.EINVAL, errno.ENOENT)


def unmount(target: str | os.PathLike[str], *, dead: bool = False) -> bool:
    """Unmount what is seen at `target`; False where nothing is mounted.  A busy mount is detached.

    `dead`: nobody serves it, so that whoever waits for an answer is not kept waiting by others that have its channel.
    Raises MountError where it is not permitted.
    """
    try:
        umount(target, UMOUNT_NOFOLLOW | (MNT_FORCE if dead else 0))
    except OSError as error:
        if error.errno in _NOT_MOUNTED:
            return False
        if error.errno == errno.EPERM:
            # force is for root outside of user namespaces
            return unmount(target) if dead else _unmount_as_user(target)
        if error.errno != errno.EBUSY:
            raise MountError(f"cannot unmount {os.fspath(target)}: {error.strerror}") from error
        return _detach(target)
    return True


def _detach(target: str | os.PathLike[str]) -> bool:
    try:
        umount(target, MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno in _NOT_MOUNTED:
            return False
        raise MountError(f"cannot detach {os.fspath(target)}: {error.strerror}") from error
    logger.info("%s is in use: detached, it ends with its last user", os.fspath(target))
    return True


def _unmount_as_user(target: str | os.PathLike[str]) -> bool:
    import shutil
    import subprocess

    if mountinfo.top(target) is None:
        return False
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise MountError(f"not permitted to unmount {os.fspath(target)}", hint="install fusermount (fuse3)")
    for options in ("-u", "-uz"):
        done = subprocess.run(
            [program, options, "--", os.fspath(target)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FUSERMOUNT_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return True
    reason = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
    raise MountError(f"cannot unmount {os.fspath(target)}: {reason}")


def clear_target(target: Path) -> None:
    """Take down dead mounts at `target`, so that it can be mounted at.

    Raises MountError where a living flist is mounted there.  Mounts of others stay and are mounted over.
    """
    while (mount := mountinfo.top(target)) is not None:
        server = server_of(mount)
        if mountinfo.is_dead(mount):
            logger.warning("%s: taking down the mount of a dead process", target)
            unmount(target, dead=True)
        elif (server := server or server_by_asking(mount)) is not None:
            raise MountError(
                f"{target} is busy: a flist is mounted there already by process {server}",
                hint=f"unmount it first: zerofs umount {target}",
            )
        else:
            return


def server_of(mount: Mount) -> int | None:
    """The process that serves `mount`, directly or as the lower layer of an overlay."""
    flist = flist_of(mount)
    return None if flist is None else flist.server


def server_by_asking(mount: Mount) -> int | None:
    """The process that serves a living union by fuse-overlayfs, which does not lead to it; None for all others."""
    from zerofs.mount import inquiry

    if mount.fstype != inquiry.BY_ASKING or mountinfo.is_dead(mount):
        return None
    with contextlib.suppress(MountError):
        return inquiry.find(Path(mount.target)).process
    return None


def flist_of(mount: Mount) -> Mount | None:
    """The FUSE mount of a flist that `mount` is, or that it has as the lower layer of an overlay."""
    if mount.fstype != "overlay":
        return None if mount.server is None else mount
    for lower in mount.lower_dirs():
        layer = mountinfo.top(lower)
        if layer is not None and layer.server is not None:
            return layer
    return None


def clear_backend(backend: Path, *, upper: Path) -> None:
    """Take down what a killed process left mounted of the backend whose lock the caller holds.

    That is our FUSE mount at ``ro`` and every overlay that writes to `upper`: whoever served them
    would hold the lock.
    """
    mounts = mountinfo.read()
    overlays = [m.target for m in mounts if m.fstype == "overlay" and m.upper_dir() == str(upper)]
    flists = [m.target for m in mountinfo.at(backend / "ro", mounts) if m.is_ours]
    for target in flists + overlays:  # who waits in the one keeps the other from being taken down
        logger.warning("%s: taking down the mount of a dead process", target)
        unmount(target, dead=True)
