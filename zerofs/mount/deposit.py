"""What a supervisor deposits with systemd (FDSTORE), so that its own death is survived, and how another takes it up.

Role: `supervisor` keeps what must outlive a server; this keeps it beyond the supervisor's own end.  Each descriptor is
stored under a number, and last of a generation the *register*, a file in memory named ``register.N``, which says which
number is what.  A generation counts once its register is stored, so a supervisor may be killed between any two
messages.  Beside it lie the pidfds of the servers, lest one of a dead supervisor still answers.

A service that systemd starts again has another process id, and the mount names the first one (its source).  So the new
process has that number taken up again (`Left.resume_number`).  Main thread; no locks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import struct
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from zerofs.mount import systemd
from zerofs.mount._linux import is_same_file, spawn_as

log = logging.getLogger(__name__)

VERSION = 1  # of the register
_COUNT = struct.Struct("<Q")  # takeovers, at its head: written anew in place
_REGISTER, _SERVER = "register.", "server."
_END_SECONDS = 10.0  # that a killed server may take to end


def is_possible() -> bool:
    """Is there a systemd, and a kernel that tells which descriptors are one file?"""
    with contextlib.suppress(OSError):
        return systemd.is_there() and is_same_file(2, 2)
    return False


class Left(NamedTuple):
    """What a dead supervisor left."""

    given: dict[str, int]  # all descriptors, by the names that they are stored under
    register: dict[str, Any]
    takeovers: int

    @property
    def process(self) -> int:
        """The number that the mount names."""
        return int(self.register["process"])

    @property
    def files(self) -> dict[str, int]:
        """What the next server needs."""
        return {role: self.given[name] for role, name in self.register["files"].items()}

    def resume_number(self) -> None:
        """Become the process that the mount names; returns where this is it, or none can have its number.

        That process runs this very command, and begins when systemd knows it as the one to watch; this one ends.
        """
        if self.process == os.getpid():
            return
        gate, opened = os.pipe()
        try:
            variables = systemd.given_to(self.process, self.given)
            spawn_as(
                self.process,
                gate,
                opened,
                sys.executable,
                [os.fsencode(word) for word in sys.orig_argv],
                [os.fsencode(f"{name}={value}") for name, value in variables.items()],
            )
        except OSError as error:
            log.warning(
                "no process can have the number %d again (%s): the mount goes on with a source that is no process",
                self.process,
                error.strerror,
            )
            for descriptor in self.given.values():
                os.set_inheritable(descriptor, False)
            return
        finally:
            os.close(gate)
        systemd.tell(f"MAINPID={self.process}")
        systemd.await_heard()
        os._exit(0)  # and so opens the gate

    def end_servers(self) -> None:
        """Kill what is left of the servers: nobody else may take requests from now on."""
        servers = [fd for name, fd in self.given.items() if name.startswith(_SERVER)]
        for server in servers:
            with contextlib.suppress(OSError):  # it has ended
                signal.pidfd_send_signal(server, signal.SIGKILL)
        for server in servers:
            if not systemd.await_end(server, _END_SECONDS):
                log.warning("a server of the dead supervisor does not end")

    def drop(self) -> None:
        """Want nothing of it."""
        for name, descriptor in self.given.items():
            _remove(name)
            os.close(descriptor)


def left() -> Left | None:
    """What systemd gives to this process: the newest generation that is whole; None where there is none."""
    given = systemd.take_descriptors()
    registers = [name for name in given if name.startswith(_REGISTER)]
    for name in sorted(registers, key=_number, reverse=True):
        found = _read(given, given[name])
        if found is not None:
            return found
    if given:
        rest = Left(given, {}, 0)
        rest.end_servers()
        rest.drop()
    return None


def _read(given: dict[str, int], register: int) -> Left | None:
    data = os.pread(register, os.fstat(register).st_size, 0)
    document = json.loads(data[_COUNT.size :])
    if document["version"] != VERSION or not given.keys() >= set(document["files"].values()):
        return None
    return Left(given, document, *_COUNT.unpack_from(data))


class Deposit:
    """The supervisor's end.  `known`: what the register says of the mount, beside its descriptors."""

    def __init__(self, left: Left | None = None, **known: object) -> None:
        self._known = known
        self._stored: dict[str, int] = {}  # what the mount needs, by the names that it is stored under
        self._register: tuple[str, int] | None = None
        self._servers: dict[int, str] = {}  # by their pidfds
        self._count = 0  # numbers given out
        self._warned = False
        if left is not None:
            self._resume(left)

    def _resume(self, left: Left) -> None:
        self._count = max(map(_number, left.given)) + 1
        self._stored = {name: left.given[name] for name in left.register["files"].values()}
        for name, descriptor in left.given.items():
            if name not in self._stored:
                _remove(name)  # of servers, and of generations that were not finished or not yet cleared away
                os.close(descriptor)
        self._put_register(left.register, left.takeovers)

    def keep(self, files: Mapping[str, int], takeovers: int, **told: object) -> None:
        """Store a generation: descriptors by what they are, and what the supervisor was `told` about them.

        The descriptors stay the caller's, who keeps them open until the next generation is stored.
        """
        before, self._stored = self._stored, {}
        names = {}
        for role, descriptor in files.items():
            known = (name for name, other in before.items() if is_same_file(descriptor, other))
            names[role] = next(known, None) or self._put("", descriptor)  # systemd stores no file twice
            self._stored[names[role]] = descriptor
        self._put_register({"version": VERSION, **self._known, **told, "files": names}, takeovers)
        for name in before.keys() - self._stored.keys():
            _remove(name)

    def _put_register(self, document: Mapping[str, object], takeovers: int) -> None:
        before = self._register
        descriptor = os.memfd_create("zerofs-register", os.MFD_CLOEXEC)
        os.write(descriptor, _COUNT.pack(takeovers) + json.dumps(document).encode())
        self._register = self._put(_REGISTER, descriptor), descriptor
        if before is not None:
            _remove(before[0])
            os.close(before[1])

    def count(self, takeovers: int) -> None:
        """So many there have been by now."""
        if self._register is not None:
            os.pwrite(self._register[1], _COUNT.pack(takeovers), 0)

    def add_server(self, process: int) -> None:
        """A server is about to take requests (its pidfd)."""
        self._servers[process] = self._put(_SERVER, process)

    def remove_server(self, process: int) -> None:
        """It has ended."""
        _remove(self._servers.pop(process))

    def clear(self) -> None:
        """The mount is being taken down: another process would have nothing to go on with."""
        registers = [] if self._register is None else [self._register[0]]
        for name in (*registers, *self._stored, *self._servers.values()):
            _remove(name)
        systemd.await_heard()  # what systemd has open keeps a busy mount's users waiting
        if self._register is not None:
            os.close(self._register[1])
        self._register, self._stored, self._servers = None, {}, {}

    def _put(self, kind: str, descriptor: int) -> str:
        name = f"{kind}{self._count}"
        self._count += 1
        # never polled: each request would wake systemd
        if (
            not systemd.tell("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", files=[descriptor])
            and not self._warned
        ):
            self._warned = True
            log.warning("the service manager takes no descriptors: the mount ends with its supervisor")
        return name


def _remove(name: str) -> None:
    systemd.tell("FDSTOREREMOVE=1", f"FDNAME={name}")


def _number(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdecimal() else -1
