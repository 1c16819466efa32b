"""Where the control sockets of mounts lie: ``PID.sock`` in a directory that is its owner's alone.

Place: below `control`, which answers at such a socket, and `inquiry`, which asks.  Root's directory is
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

_NAME = re.compile(r"(\d{1,10})\.sock")


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


def address(directory: int, process: int) -> str:
    """The address of the socket of `process`, by way of the open directory."""
    return f"/proc/self/fd/{directory}/{process}.sock"


def processes(directory: int) -> list[int]:
    """Those who have a socket in `directory`, dead or alive."""
    return sorted(int(match[1]) for name in os.listdir(directory) if (match := _NAME.fullmatch(name)))


def sweep(directory: int) -> None:
    """Remove the sockets of dead processes."""
    for process in processes(directory):
        if not Path(f"/proc/{process}").exists():
            remove_stale(directory, process)


def remove_stale(directory: int, process: int) -> bool:
    """Remove the socket of `process` unless somebody listens; whether there is none any more.

    A process that this one does not see may live in another PID namespace.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address(directory, process))
        except FileNotFoundError:
            return True
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{process}.sock", dir_fd=directory)
            return True
        except OSError:
            return False  # its queue is full, so somebody has one
    return False
