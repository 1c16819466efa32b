"""What a supervisor holds of its mount: all that the next server needs, and what is known of the mount.

Role: `supervisor` decides who serves; this keeps what that takes.  A server hands its descriptors over (the
``/dev/fuse`` channel above all, the backend's lock, the compiled trees), again after each change of them.  Under
systemd all of it is deposited there as well (`deposit`), and the supervisor that is started after one was killed takes
it up.

Main thread; no locks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zerofs.errors import ZerofsError, describe
from zerofs.mount import deposit, messages
from zerofs.mount.deposit import Deposit, Left
from zerofs.mount.options import MountOptions

log = logging.getLogger(__name__)


def take_up(options: MountOptions, arguments: Sequence[str], here: Path) -> Holding:
    """What there is of the mount that `options` ask for: what a supervisor left that was killed, or nothing yet.

    `arguments` led to the options, relative to the directory `here`.  May go on as another process.
    """
    is_possible = deposit.is_possible() and not options.daemon
    left = _left(arguments, here) if is_possible else None
    holding = Holding(options, here)
    if left is not None:
        holding.resume(left)
    if is_possible:
        holding.deposit = Deposit(left, process=holding.source, arguments=[*arguments], here=os.fspath(here))
    return holding


def _left(arguments: Sequence[str], here: Path) -> Left | None:
    """What a supervisor of the same mount left."""
    left = deposit.left()
    if left is None:
        return None
    if (left.register["arguments"], left.register["here"]) != ([*arguments], os.fspath(here)):
        log.warning("the service was asked for another mount since it was killed: it begins anew")
        left.end_servers()
        left.drop()
        return None
    left.resume_number()
    left.end_servers()
    return left


class Holding:
    """What is held, at first nothing; `options` are relative to `here`."""

    def __init__(self, options: MountOptions, here: Path) -> None:
        self.files: dict[str, int] = {}  # what a successor needs, by name
        self.target = here / options.target
        self.resends = False
        self.takeovers = 0
        self.source = os.getpid()  # what the mount names
        self.deposit: Deposit | None = None  # None: nobody goes on with the mount after this process
        self._backend = None if options.backend is None else here / options.backend

    def resume(self, left: Left) -> None:
        self.source, self.takeovers, self.files = left.process, left.takeovers, left.files
        self._know(left.register)

    def keep(self, files: dict[str, int], told: Mapping[str, Any]) -> None:
        """Hold what a server hands over, instead of what was held before; the server may wait to be told so."""
        kept = files.pop(messages.KEPT, None)
        self._know(told)
        if not self.resends:
            self.withdraw()  # what a dead server had taken would be lost
        if self.deposit is not None:
            self.deposit.keep(files, self.takeovers, **told)
        if kept is not None:
            os.close(kept)  # which says so
        self._close()
        self.files = files

    def _know(self, told: Mapping[str, Any]) -> None:
        self.target, self.resends = Path(told["target"]), told["resends"]
        self._backend = None if told["backend"] is None else Path(told["backend"])

    def count_takeover(self) -> None:
        self.takeovers += 1
        if self.deposit is not None:
            self.deposit.count(self.takeovers)

    def add_server(self, process: int) -> None:
        """A server is about to take requests (its pidfd)."""
        if self.deposit is not None:
            self.deposit.add_server(process)

    def remove_server(self, process: int) -> None:
        """It has ended."""
        if self.deposit is not None:
            self.deposit.remove_server(process)

    def withdraw(self) -> None:
        """Have nothing deposited any more: nobody is to go on with this mount."""
        if self.deposit is not None:
            self.deposit.clear()
            self.deposit = None

    def clear(self) -> None:
        """Hold nothing any more, and take down what is left of the mount, as the next mount would."""
        self._close()  # with the last one the kernel ends the connection
        from zerofs.mount import mountinfo
        from zerofs.mount.aftermath import clear
        from zerofs.mount.unmount import unmount

        try:
            for mount in mountinfo.read():
                if mount.server == self.source:  # a writer (see `notify`) may have the channel, and wait
                    unmount(mount.target, dead=True)
            clear(self.target, self._backend)
        except ZerofsError as error:
            log.warning("something is left of the mount: %s", describe(error))

    def _close(self) -> None:
        held, self.files = self.files, {}
        for descriptor in held.values():
            os.close(descriptor)
