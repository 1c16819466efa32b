"""The service manager that started this process, if one did: what it is told, and the descriptors that it gives.

Role: the protocols of sd_notify(3) and sd_listen_fds(3), spoken plainly: datagrams to the socket that
``NOTIFY_SOCKET`` names, and descriptors from 3 on.  Where there is no service manager, nothing is said to nobody.
Main thread; no locks.
"""

from __future__ import annotations

import logging
import os
import select
import struct
from collections.abc import Sequence

log = logging.getLogger(__name__)

_SOCKET = "NOTIFY_SOCKET"
_LISTEN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
VARIABLES = (_SOCKET, *_LISTEN)  # that are for this process alone
_FIRST = 3  # descriptor
_PATIENCE = 5.0  # seconds that it may take to read what it is told


def is_there() -> bool:
    """Is this process a service that is to say how it fares?"""
    return bool(os.environ.get(_SOCKET))


def tell(*lines: str, files: Sequence[int] = ()) -> bool:
    """Tell `lines` (``READY=1``), with descriptors; False where nobody takes them.

    What was told stands, and what was sent stays open, whatever becomes of this process.
    """
    place = os.environ.get(_SOCKET, "")
    if place[:1] not in ("/", "@"):
        return False
    import socket  # what most mounts do not need before they can be used

    address = os.fsencode(place).replace(b"@", b"\0", 1) if place[0] == "@" else os.fsencode(place)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            # by the kernel: while the queue is full
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_PATIENCE), 0))
            connection.connect(address)
            socket.send_fds(connection, ["\n".join(lines).encode(errors="backslashreplace")], list(files))
    except OSError as error:
        log.debug("the service manager cannot be told %s: %s", lines, error)
        return False
    return True


def await_heard() -> None:
    """Wait until everything that was told has been taken account of: it then closes what comes with this."""
    waiting, told = os.pipe2(os.O_CLOEXEC)
    try:
        heard = tell("BARRIER=1", files=[told])
        os.close(told)
        if heard:
            await_end(waiting, _PATIENCE)
    finally:
        os.close(waiting)


def await_end(descriptor: int, seconds: float) -> bool:
    """Wait until `descriptor` can be read, or nobody can write to it any more; whether that came in time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def take_descriptors() -> dict[str, int]:
    """The descriptors that were given to this very process, by name, in their order."""
    process, count, names = (os.environ.pop(name, "") for name in _LISTEN)
    if process != str(os.getpid()) or not count.isdecimal():
        return {}
    descriptors = range(_FIRST, _FIRST + int(count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return dict(zip(names.split(":"), descriptors, strict=False))


def given_to(process: int, files: dict[str, int]) -> dict[str, str]:
    """The environment in which `process` is given what `take_descriptors` returned; they are inherited from now on."""
    for descriptor in files.values():
        os.set_inheritable(descriptor, True)
    return {
        **os.environ,
        "LISTEN_PID": str(process),
        "LISTEN_FDS": str(len(files)),
        "LISTEN_FDNAMES": ":".join(files),
    }
