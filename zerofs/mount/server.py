"""One serving process, as its supervisor sees it: started, heard, told, and counted out.

Place: below `supervisor`.  The process runs `zerofs.cli.serving` in a fresh interpreter, from the program as it is on
disk at that moment, in a process group of its own: what a terminal sends is for the supervisor.  No threads, no locks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import zerofs
from zerofs.mount import messages, systemd
from zerofs.mount.messages import Message

DESCRIPTOR = 3  # of the socket, in the server
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)  # blocked until the server can deal with them
_INSTALLED = ("site-packages", "dist-packages")


class Server:
    """A process that was started.  Raises OSError where it cannot be."""

    def __init__(self, arguments: Sequence[str], files: Mapping[str, int], **hello: object) -> None:
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", "zerofs.cli.serving", *arguments],
                _environment(),
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), DESCRIPTOR)],
                setpgroup=0,
                setsigmask=SIGNALS,
            )
        self.end = os.pidfd_open(self.process)  # becomes readable
        self.ready_at: float | None = None  # time.monotonic()
        self.deadline: float | None = None  # until which it must say what is waited for
        self.succeeds = False  # it takes a mount over
        self.prepared = False
        self.retiring = False
        self.ended = False  # it has taken the mount down
        self.was_killed = False  # by somebody who had no reason that lies in the mount
        self.failure: tuple[str, int] | None = None  # the message, and the exit status that goes with it
        self.tell("hello", files, protocol=messages.PROTOCOL, **hello)
        self.connection.setblocking(False)

    def tell(self, say: str, files: Mapping[str, int] | None = None, **fields: object) -> None:
        """Send a message; a process that is gone is noticed elsewhere."""
        with contextlib.suppress(BlockingIOError):
            messages.send(self.connection, say, files, **fields)

    def hear(self) -> Iterator[Message | None]:
        """The messages that are there; None: no more will come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = messages.receive(self.connection)
                yield message
                if message is None:
                    return

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.end, number)

    def wait(self) -> str:
        """Close everything once the process has ended, and say how it did; sets `was_killed`."""
        _, status = os.waitpid(self.process, 0)
        os.close(self.end)
        self.connection.close()
        code = os.waitstatus_to_exitcode(status)
        self.was_killed = code == -signal.SIGKILL and self.failure is None
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    @property
    def is_quick(self) -> bool:
        """Has it served for no time worth the name?"""
        return self.ready_at is None or time.monotonic() - self.ready_at < 0.5


def _environment() -> dict[str, str]:
    """Ours, leading to this very package where it is not installed; the service manager is the supervisor's."""
    variables = {name: value for name, value in os.environ.items() if name not in systemd.VARIABLES}
    place = Path(zerofs.__file__).parent.parent
    if place.name not in _INSTALLED:
        before = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.fspath(place) if not before else f"{place}{os.pathsep}{before}"
    return variables
