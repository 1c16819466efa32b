"""Where the control sockets of mounts lie: ``PID.sock`` in a directory that is its owner's alone.

Place: below `control`, which answers at such a socket, and `inquiry`, which asks; a `supervisor` has a second one,
``PID.upgrade``.  Root's directory is
``/run/zerofs``; that of others is ``zerofs`` in their ``XDG_RUNTIME_DIR``, or a private one in ``/tmp`` where there
is none.  A directory that belongs to somebody else, or that others may enter, is never used: who could place a socket
there could answer for a mount.  Sockets are reached through the open directory, so its path may be longer than the
name of a socket may be.

What a killed process left is swept: its process is gone, and nobody listens at its socket.  No threads, no locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_NAME = re.compile(r"(\d{1,10})\.(?:sock|upgrade)")
MOST_WAITING = 8  # who have connected and were not accepted yet
STATS, UPGRADE = "sock", "upgrade"  # what can be asked for there


def candidates(owner: int) -> list[Path]:
    """The directories in which the sockets of the user `owner` may lie, the preferred one first."""
    places = [Path("/run/zerofs")] if owner == 0 else []
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if owner == os.geteuid() and runtime.is_absolute():
        places.append(runtime / "zerofs")
    if owner != 0:
        places.append(Path(f"/run/user/{owner}/zerofs"))  # where XDG_RUNTIME_DIR usually points
    places.append(Path(f"/tmp/zerofs-{owner}"))
    return list(dict.fromkeys(places))


def open_directory(path: Path, owner: int) -> int:
    """A descriptor of `path`.  Raises OSError unless it is a directory that only `owner` may enter."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != owner or status.st_mode & 0o077:
        os.close(fd)
        raise PermissionError(errno.EPERM, "not a private directory of the user", os.fspath(path))
    return fd


def make_directory() -> int:
    """A descriptor of the first directory that this process can use, made where it is missing.

    Raises OSError, that of the last one, where there is none.
    """
    problem = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in candidates(os.geteuid()):
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            return open_directory(path, os.geteuid())
        except OSError as error:
            problem = error
    raise problem


@contextlib.contextmanager
def opened_directories(owner: int) -> Iterator[list[int]]:
    """Descriptors of the directories of `owner` that exist and are sound, the preferred one first."""
    with contextlib.ExitStack() as stack:
        found = []
        for path in candidates(owner):
            with contextlib.suppress(OSError):
                fd = open_directory(path, owner)
                stack.callback(os.close, fd)
                found.append(fd)
        yield found


class Place:
    """A socket that listens under the number of a process, this one's unless told, until it is left.

    Raises OSError where there is no place.
    """

    def __init__(self, kind: str = STATS, process: int | None = None) -> None:
        self._kind = kind
        # noted now: a child that has a copy of this does not take the name away
        self._process = os.getpid() if process is None else process
        with contextlib.ExitStack() as stack:
            self._directory = make_directory()
            stack.callback(os.close, self._directory)
            sweep(self._directory)
            self.socket = stack.enter_context(socket.socket(socket.AF_UNIX))
            self._bind()
            stack.callback(self._unlink)
            self._closing = stack.pop_all()

    def _bind(self) -> None:
        self.socket.setblocking(False)
        os.fchmod(self.socket.fileno(), 0o600)  # the mode with which the name appears
        place = address(self._directory, self._process, self._kind)
        try:
            self.socket.bind(place)
        except OSError:  # left by a process that had our number
            if not remove_stale(self._directory, self._process, self._kind):
                raise
            self.socket.bind(place)
        self.socket.listen(MOST_WAITING)

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._process}.{self._kind}", dir_fd=self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def address(directory: int, process: int, kind: str = STATS) -> str:
    """The address of a socket of `process`, by way of the open directory."""
    return f"/proc/self/fd/{directory}/{process}.{kind}"


def processes(directory: int) -> list[int]:
    """Those who have a socket in `directory`, dead or alive."""
    return sorted({int(match[1]) for name in os.listdir(directory) if (match := _NAME.fullmatch(name))})


def sweep(directory: int) -> None:
    """Remove the sockets of dead processes."""
    for process in processes(directory):
        if not Path(f"/proc/{process}").exists():
            remove_stale(directory, process)
            remove_stale(directory, process, UPGRADE)


def remove_stale(directory: int, process: int, kind: str = STATS) -> bool:
    """Remove the socket of `process` unless somebody listens; whether there is none any more.

    A process that this one does not see may live in another PID namespace.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address(directory, process, kind))
        except FileNotFoundError:
            return True
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{process}.{kind}", dir_fd=directory)
            return True
        except OSError:
            return False  # its queue is full, so somebody has one
    return False
