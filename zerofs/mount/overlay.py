"""The union that the user sees: a read-write layer over a read-only one.

Role: above the FUSE mount; reads of untouched files go through it to the engine, the first write to a lower
file copies it up.  The kernel's overlayfs does it as root and in a user namespace, ``fuse-overlayfs``
elsewhere; :func:`strategy` decides.  Used by the thread that mounts and unmounts; no locks.

What the options are for: ``redirect_dir`` lets lower directories be renamed, ``metacopy`` keeps ``chmod`` and
``chown`` from fetching a file, ``xino`` makes one device of both layers (``du -x``), and ``index=off``
lets a persistent upper layer meet another version of the flist.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import resource
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zerofs.errors import BackendError, MountError, ZerofsError
from zerofs.mount import mountinfo
from zerofs.mount._linux import MS_RDONLY, mount
from zerofs.mount.unmount import unmount

if TYPE_CHECKING:
    from zerofs.mount.notify import Led, Teller

logger = logging.getLogger(__name__)

# From the last to the first, each is given up where the kernel does not have it.
_OPTIONS = {
    "index=off": "a changed flist under an old backend may give stale handles",
    "xino=on": "du -x counts next to nothing",
    "redirect_dir=on": "renaming a lower directory fails with EXDEV",
    "metacopy=on": "chmod and chown of a lower file copy it whole",
}
_USER_OPTIONS = ("index=off", "xino=on")  # all that goes together with userxattr
_CAP_SYS_ADMIN = 21


class Strategy(enum.Enum):
    """Who joins the layers."""

    KERNEL = "overlayfs"
    KERNEL_IN_USER_NAMESPACE = "overlayfs in a user namespace"
    FUSE = "fuse-overlayfs"


class Layers(Protocol):
    """The three directories of a union; a backend has them."""

    @property
    def ro(self) -> Path: ...
    @property
    def rw(self) -> Path: ...
    @property
    def wd(self) -> Path: ...


class Overlay(Protocol):
    """A mounted union."""

    target: Path

    def refresh(self, kernel: Teller, names: Sequence[Led] = ()) -> list[bool]:
        """Forget what is known of names in the lower layer, which has changed.  Raises MountError.

        Forget then what the lower layer knows of `names`; whether it knows the nodes that they led to.
        """
        ...

    def close(self) -> None:
        """Unmount; a busy union is detached.  Does nothing where it is gone already."""
        ...

    def remembered(self) -> dict[str, int]:
        """What `inherited_overlay` needs in another process."""
        ...


class KernelOverlay:
    """A union by the kernel's overlayfs."""

    def __init__(self, target: Path, flags: int, mount_id: int | None = None) -> None:
        self.target = target
        self._flags = flags
        seen = mountinfo.top(target) if mount_id is None else None
        self._id = mount_id if mount_id is not None else seen.id if seen is not None else -1

    def refresh(self, kernel: Teller, names: Sequence[Led] = ()) -> list[bool]:
        """Remount in place, which drops every entry that nobody holds; takes well under a millisecond.

        A path whose old file is held open stays with it until the file is closed and another refresh came.
        """
        seen = mountinfo.top(self.target)
        if seen is None or seen.id != self._id:
            raise MountError(f"the union is not to be seen at {self.target} any more: it cannot be refreshed")
        try:
            return kernel.remount(self.target, self._flags, names)
        except OSError as error:
            raise MountError(f"cannot remount {self.target}: {error.strerror}") from error

    def remembered(self) -> dict[str, int]:
        return {"mount": self._id, "flags": self._flags}

    def close(self) -> None:
        stack = mountinfo.at(self.target)
        if not any(seen.id == self._id for seen in stack):
            return
        if stack[-1].id != self._id:
            logger.warning("%s: something is mounted over the union, which stays", self.target)
            return
        unmount(self.target)


def strategy() -> Strategy:
    """How this process can join two layers.  Raises MountError where it cannot at all."""
    if _has_capability(_CAP_SYS_ADMIN):
        return Strategy.KERNEL if _in_first_user_namespace() else Strategy.KERNEL_IN_USER_NAMESPACE
    from zerofs.mount import fuse_overlayfs

    if fuse_overlayfs.program() is None:
        raise MountError(
            "not permitted to mount an overlay",
            hint="run as root or in a user namespace (unshare -rm), install fuse-overlayfs, or use --ro",
        )
    return Strategy.FUSE


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _in_first_user_namespace() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def mount_overlay(layers: Layers, target: Path, *, flags: int = 0) -> Overlay:
    """Join `layers` at `target`, which exists and is named as the mount table names it.

    `flags` are those of mount(2): without any, set-user-id bits and devices are in force.  Raises MountError,
    or BackendError where the backend's file system is what stands in the way.
    """
    kind = strategy()
    if not target.is_dir():
        raise MountError(f"the mount point {target} is not a directory", hint="create it first")
    _adopt_root(layers)
    if kind is Strategy.FUSE:
        from zerofs.mount import fuse_overlayfs

        return fuse_overlayfs.FuseOverlay(layers.ro, layers.rw, layers.wd, target)
    fixed: tuple[str, ...] = ()
    wanted: Sequence[str] = tuple(_OPTIONS)
    if kind is Strategy.KERNEL_IN_USER_NAMESPACE:
        fixed, wanted = ("userxattr",), _USER_OPTIONS
    _mount(layers, target, flags, fixed, wanted)
    overlay = KernelOverlay(target, flags)
    if not flags & MS_RDONLY and os.statvfs(target).f_flag & os.ST_RDONLY:
        overlay.close()  # the kernel does so where it cannot make what it needs in the work directory
        raise BackendError(
            f"the backend's work directory {layers.wd} cannot be written", hint=_room(layers.wd)
        )
    return overlay


def inherited_overlay(left: Mapping[str, int], target: Path) -> Overlay:
    """The union of a process that this one takes over from, by what it `remembered`."""
    if "process" in left:
        from zerofs.mount import fuse_overlayfs

        return fuse_overlayfs.FuseOverlay.inherited(left["process"], target)
    return KernelOverlay(target, left["flags"], left["mount"])


def _mount(layers: Layers, target: Path, flags: int, fixed: Sequence[str], wanted: Sequence[str]) -> None:
    places = [
        f"lowerdir={_escape(layers.ro)}",
        f"upperdir={_escape(layers.rw)}",
        f"workdir={_escape(layers.wd)}",
    ]
    for count in range(len(wanted), -1, -1):
        data = os.fsencode(",".join([*places, *fixed, *wanted[:count]]))
        if len(data) >= resource.getpagesize():
            raise MountError(
                f"the layers' paths are too long for one mount: {len(data)} bytes",
                hint="use a shorter --backend",
            )
        try:
            mount("overlay", target, "overlay", flags, data)
        except OSError as error:
            if error.errno == errno.EINVAL and count:
                continue
            raise _failure(layers, target, error) from error
        for option in wanted[count:]:
            logger.warning("overlayfs does not take %s here: %s", option, _OPTIONS[option])
        return


def _escape(path: Path) -> str:
    """overlayfs parts options by commas and layers by colons; a backslash takes their meaning away."""
    text = os.fspath(path)
    for special in "\\,:":
        text = text.replace(special, "\\" + special)
    return text


def _failure(layers: Layers, target: Path, error: OSError) -> ZerofsError:
    reason = error.strerror
    match error.errno:
        case errno.EINVAL:
            kind = mountinfo.holding(layers.rw).fstype
            return BackendError(
                f"the backend {layers.rw.parent} lies on {kind}, which overlayfs cannot write its layer to",
                hint="put --backend on ext4, xfs, btrfs or tmpfs",
            )
        case errno.ENOSPC | errno.EROFS | errno.EDQUOT:
            return BackendError(
                f"the backend {layers.rw.parent} cannot be written: {reason}", hint=_room(layers.wd)
            )
        case errno.EPERM | errno.EACCES:
            hint = "run as root, or install fuse-overlayfs"
        case errno.ENODEV:
            hint = "load the kernel module: modprobe overlay"
        case errno.EBUSY:
            hint = "another mount uses the backend or the mount point: unmount it first"
        case _:
            hint = "see the kernel's log: dmesg"
    return MountError(f"cannot mount the union at {target}: {reason}", hint=hint)


def _room(directory: Path) -> str:
    space = os.statvfs(directory)
    full = space.f_bavail == 0 or (space.f_files and space.f_favail == 0)
    return "its disk is full: make room or choose another --backend" if full else "choose another --backend"


def _adopt_root(layers: Layers) -> None:
    """Give a new read-write layer the mode, owner and time of the lower root: the union shows its own.

    A layer that was mounted before keeps what its user made of it.
    """
    if (layers.wd / "work").exists() or any(layers.rw.iterdir()):
        return
    root = layers.ro.stat()
    try:
        os.chown(layers.rw, root.st_uid, root.st_gid)
    except PermissionError:
        logger.debug("not permitted to give %s to user %d", layers.rw, root.st_uid)
    layers.rw.chmod(stat.S_IMODE(root.st_mode))
    os.utime(layers.rw, ns=(root.st_mtime_ns, root.st_mtime_ns))
