"""The backend: the working directory of one mount, its layers, its lock, and what may be done to it.

Role: prepares ``ro`` (the FUSE mount's place), ``rw`` and ``wd`` (the read-write layer and overlayfs' work
directory) before anything is mounted, and takes a private one away after everything is unmounted.
One process holds a backend at a time, by a lock on the directory itself: nothing
is left to clean when the process dies, and a daemon's child inherits it.  Used by one thread; no other locks.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pwd
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zerofs.errors import BackendError, MountError, reason_of
from zerofs.mount import emptying, mountinfo
from zerofs.mount._linux import mount
from zerofs.mount.unmount import clear_backend, unmount

logger = logging.getLogger(__name__)

DEFAULT = Path("/tmp/backend")  # where private backends live
_CHOOSE = "choose another directory with --backend"
_PRIVATE = "mount-"  # how the names of private backends begin
_MEMORY = "memory"  # in a private backend: the tmpfs with the read-write layer


class Backend:
    """A backend whose lock this process holds.  Made by :func:`open_backend`; close it last of all.

    ``path`` is absolute and without links.
    """

    def __init__(
        self,
        path: Path,
        lock: int,
        *,
        private: bool = False,
        layers: Path | None = None,
        shared: Path | None = None,
    ) -> None:
        self.path = path
        self._lock = lock
        self._layers = layers or path
        self._shared = shared or path
        self._private = private

    @property
    def ro(self) -> Path:
        """Where the flist is mounted: the overlay's lower layer."""
        return self.path / "ro"

    @property
    def rw(self) -> Path:
        """The read-write layer."""
        return self._layers / "rw"

    @property
    def wd(self) -> Path:
        """The work directory of overlayfs."""
        return self._layers / "wd"

    @property
    def cache(self) -> Path:
        """Where the cache is unless the user says otherwise; made by its user."""
        return self._shared / "ca"

    @classmethod
    def inherited(cls, left: Mapping[str, Any], lock: int) -> Backend:
        """The backend of a process that this one takes over from: what it `remembered`, and its lock."""
        return cls(
            Path(left["path"]),
            lock,
            private=left["private"],
            layers=Path(left["layers"]),
            shared=Path(left["shared"]),
        )

    def remembered(self) -> dict[str, object]:
        """All but the lock, for `inherited`."""
        return {
            "path": os.fspath(self.path),
            "private": self._private,
            "layers": os.fspath(self._layers),
            "shared": os.fspath(self._shared),
        }

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock, for whoever is to hold it longer than this process."""
        return self._lock

    @property
    def private(self) -> bool:
        """Is this backend gone with its mount?"""
        return self._private

    def reset(self, *, target: Path, keep: Iterable[Path] = ()) -> None:
        """Empty the backend; what `keep` names (the log) and mounts inside it stay.

        A private backend is new, so there is nothing to do.  Raises BackendError for a directory that
        must not be emptied.
        """
        if self._private:
            return
        _refuse_precious(self.path, target)
        kept = [mountinfo.locate(path) for path in (*keep, target)]
        left = emptying.empty(self.path, keep=kept)
        if left:
            logger.warning("left alone: %d mounts inside the backend, the first at %s", len(left), left[0])

    def make_layers(self) -> None:
        """Make the three directories where they are missing; after :meth:`reset`, before mounting."""
        for layer in (self.ro, self.rw, self.wd):
            try:
                layer.mkdir(mode=0o755)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(layer).st_mode):
                    raise BackendError(f"{layer} is in the way: it is not a directory") from None
            except OSError as error:
                raise _unusable(layer, error) from error

    def close(self) -> None:
        """Let go of the lock.  A private backend goes away, with its memory."""
        if self._private:
            try:
                _remove_private(self.path)
            except (BackendError, MountError) as error:
                logger.warning("the private backend %s stays: %s", self.path, reason_of(error))
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_backend(
    path: Path | None, *, rw_size: int | None = None, union: bool = True, base: Path = DEFAULT
) -> Backend:
    """Take a backend for this process, and clean away what a killed process left mounted of it.

    Without `path` it is a private one below `base`, its read-write layer in memory: `rw_size` bytes at
    most, half of the memory where that is None.  No `union`: there will be no such layer, so no memory
    is set aside for it.  Raises BackendError where it cannot be used or belongs to
    another user, and MountError where another process holds it.
    """
    if path is None:
        return _open_private(base, rw_size, union=union)
    place = Path(os.path.realpath(path))
    try:
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(place, error) from error
    lock = _open_own(place)
    if not _try_lock(lock):
        os.close(lock)
        raise _busy(place)
    backend = Backend(place, lock)
    try:
        _clear(backend)
    except BaseException:
        os.close(lock)
        raise
    return backend


def _clear(backend: Backend) -> None:
    """Take down what a killed process left running and mounted of a backend whose lock is ours."""
    if os.geteuid() != 0:
        from zerofs.mount.fuse_overlayfs import end_orphans

        end_orphans(backend.rw)
    clear_backend(backend.path, upper=backend.rw)


def _unusable(path: Path, error: OSError) -> BackendError:
    hint = {
        errno.ENOSPC: "the disk is full: make room or choose another --backend",
        errno.EROFS: "the file system is read-only: choose another --backend",
        errno.EACCES: "choose a --backend that you may write to",
    }.get(error.errno or 0, _CHOOSE)
    return BackendError(f"cannot use {path} as backend: {error.strerror}", hint=hint)


def _open_own(path: Path) -> int:
    """Open a directory of ours; refuse that of another user, who could change what we mount."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(path, error) from error
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        os.close(fd)
        raise BackendError(f"the backend {path} belongs to {user_name(owner)}", hint=_CHOOSE)
    return fd


def user_name(uid: int) -> str:
    """Who that is, for a message."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take(fd: int) -> bool:
    """Lock a private backend; False where somebody else has it, or has taken it away since it was opened."""
    return _try_lock(fd) and os.fstat(fd).st_nlink > 0


def _busy(path: Path) -> MountError:
    holder = mountinfo.top(path / "ro")
    server = f" by process {holder.server}" if holder is not None and holder.server is not None else ""
    return MountError(
        f"the backend {path} is busy: it is in use{server}",
        hint="unmount that first, or give each mount a --backend of its own",
    )


def _refuse_precious(path: Path, target: Path) -> None:
    """Raise BackendError where emptying `path` would destroy what is nobody's read-write layer."""
    if path == Path("/"):
        raise BackendError("refusing to empty /", hint=_CHOOSE)
    if path == mountinfo.locate(target):
        raise BackendError(f"refusing to empty {path}: it is the mount point", hint=_CHOOSE)
    homes = {user.pw_dir for user in pwd.getpwall()} | {os.environ.get("HOME", "")}
    for home in map(Path, homes):
        if home.is_absolute() and home != Path("/") and Path(os.path.realpath(home)).is_relative_to(path):
            raise BackendError(f"refusing to empty {path}: it holds the home directory {home}", hint=_CHOOSE)


# -- private backends ----------------------------------------------------------------------


def _open_private(base: Path, rw_size: int | None, *, union: bool) -> Backend:
    base = mountinfo.locate(base)
    _open_base(base)
    sweep(base)
    while True:
        path = base / f"{_PRIVATE}{os.urandom(8).hex()}"
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise _unusable(base, error) from error
        try:
            lock = _open_own(path)
        except BackendError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                continue  # another process swept it in between
            raise
        if _take(lock):
            break
        os.close(lock)
    layers = path / _MEMORY if union else path
    backend = Backend(path, lock, private=True, layers=layers, shared=base if _shares(base) else path)
    try:
        if union:
            _mount_memory(layers, rw_size)
    except BaseException:
        backend.close()
        raise
    return backend


def _open_base(base: Path) -> None:
    """Make `base` where it is missing, and see to it that nobody else can move what is in it."""
    try:
        base.mkdir(parents=True)
        if os.geteuid() == 0:
            base.chmod(0o1777)  # every user makes private backends here
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(base, error) from error
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise BackendError(f"the backend {base} is not a directory", hint=_CHOOSE)
    if status.st_uid not in (0, os.geteuid()):
        raise BackendError(f"the backend {base} belongs to {user_name(status.st_uid)}", hint=_CHOOSE)
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise BackendError(f"anybody can move what is in {base}", hint=f"chmod +t {base}, or use --backend")


def _shares(base: Path) -> bool:
    """Can private backends share a cache in `base`?  Not where another user was there first."""
    cache = base / "ca"
    try:
        cache.mkdir(mode=0o700, exist_ok=True)
        return cache.lstat().st_uid == os.geteuid() and not cache.is_symlink()
    except OSError:
        return False


def _mount_memory(place: Path, rw_size: int | None) -> None:
    """Mount the tmpfs; without the right to, the layer lies on disk, and is removed at the end."""
    place.mkdir(mode=0o755)
    size = f",size={rw_size}" if rw_size is not None else ""  # the kernel's default is half of the memory
    try:
        mount("g8ufs", place, "tmpfs", 0, f"mode=0755{size}")
    except PermissionError:
        logger.warning("not permitted to mount a tmpfs: the read-write layer lies in %s, unbounded", place)
    except OSError as error:
        raise BackendError(f"cannot hold the read-write layer in memory: {error.strerror}") from error


def sweep(base: Path = DEFAULT) -> None:
    """Take away private backends whose process was killed: those of ours that nobody holds."""
    for path in sorted(base.glob(f"{_PRIVATE}*")):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or gone meanwhile
        try:
            if os.fstat(fd).st_uid != os.geteuid() or not _take(fd):
                continue
            if any(path.iterdir()):  # else its maker is about to lock it, or died before there was anything
                logger.warning("%s: taking away the backend of a dead process", path)
                _clear(Backend(path, fd, private=True, layers=path / _MEMORY))
            _remove_private(path)
        except (BackendError, MountError) as error:
            logger.warning("cannot take away the backend of a dead process: %s", reason_of(error))
        finally:
            os.close(fd)


def _remove_private(path: Path) -> None:
    if mountinfo.top(path / _MEMORY) is not None:
        unmount(path / _MEMORY)
    left = emptying.empty(path)
    if left:
        raise BackendError(f"{left[0]} is still mounted")
    try:
        path.rmdir()
    except OSError as error:
        raise _unusable(path, error) from error
