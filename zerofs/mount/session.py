"""The server's end of a supervised mount: what it was left, and what it tells its supervisor.

Place: between `service`, which serves, and the `supervisor`, which holds what must outlive a server.  What a successor
needs is told as soon as the mount can be used and again around each live swap: a document of version `VERSION` and the
descriptors that it speaks of.  Used by the main thread; no locks.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from zerofs.errors import TakeoverError, ZerofsError, describe
from zerofs.mount import messages, systemd
from zerofs.mount.watch import Event

log = logging.getLogger(__name__)

VERSION = 2  # of the document
_DOCUMENT = "document"
_KEEP_SECONDS = 10.0  # that the supervisor and systemd may take to keep what is handed over
_PATIENCE = 60.0  # seconds that a retired server waits to be let go or called back


class Left(NamedTuple):
    """What a predecessor left."""

    document: dict[str, Any]
    files: dict[str, int]


class Session:
    """The conversation with the supervisor.

    Raises TakeoverError where this program cannot go on from what was left.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        hello = messages.receive(connection)
        if hello is None or hello.say != "hello":
            raise TakeoverError("the supervisor says nothing")
        if hello.fields["protocol"] != messages.PROTOCOL:
            raise TakeoverError(
                f"the supervisor speaks protocol {hello.fields['protocol']}, which is not known"
            )
        self.here = Path(hello.fields["here"])  # where the arguments are relative to
        self.supervisor: int = hello.fields["process"]  # the source of the mount
        self.takeovers: int = hello.fields["takeovers"]  # before this one, and with it
        self.is_to_end: bool = hello.fields["ending"]  # the predecessor died while it took the mount down
        # whether a killed supervisor is followed by another
        self._deposited: bool = hello.fields.get("deposited", False)
        self._handed_over = False
        self.retired = False  # a successor serves: nothing is to be taken down
        files = hello.files
        listener = files.pop("control", None)
        self.listener = None if listener is None else socket.socket(fileno=listener)
        if self.listener is not None:
            self.listener.setblocking(False)
        self.left = None if _DOCUMENT not in files else Left(_read(files.pop(_DOCUMENT)), files)
        self._handed_over = self.left is not None

    def fileno(self) -> int:
        return self._connection.fileno()

    # -- a server that comes ---------------------------------------------------------------

    def hand_over(self, document: Mapping[str, object], files: Mapping[str, int], **told: object) -> None:
        """Tell what a successor needs; `told` is for the supervisor itself.

        Returns when systemd has it, where that is to keep it.
        """
        descriptor = os.memfd_create("zerofs-state", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(json.dumps({"version": VERSION, **document}).encode())
            files = {**files, _DOCUMENT: descriptor}
            self._deposited = self._deposited and bool(told["resends"])
            if self._deposited:
                self._send_deposited(files, told)
            else:
                messages.send(self._connection, "state", files, **told)
        finally:
            os.close(descriptor)
        self._handed_over = True

    def _send_deposited(self, files: Mapping[str, int], told: Mapping[str, object]) -> None:
        waiting, kept = os.pipe2(os.O_CLOEXEC)
        try:
            messages.send(self._connection, "state", {**files, messages.KEPT: kept}, **told)
            os.close(kept)
            systemd.await_end(waiting, _KEEP_SECONDS)
        finally:
            os.close(waiting)

    def await_turn(self) -> None:
        """Say that all is prepared, and wait until the predecessor takes no more requests."""
        messages.send(self._connection, "prepared")
        answer = messages.receive(self._connection)
        if answer is None or answer.say != "go":
            os._exit(0)  # the predecessor goes on: nothing here is worth an orderly end

    def ready(self) -> None:
        """The mount can be used, or goes on."""
        messages.send(self._connection, "ready")

    def failed(self, error: Exception) -> None:
        """The mount cannot be made, or not taken over."""
        code = error.exit_code if isinstance(error, ZerofsError) else ZerofsError.exit_code
        messages.send(self._connection, "failed", code=code, message=describe(error))

    def give_up(self, error: Exception) -> NoReturn:
        """End without touching what is mounted: another server may do better."""
        log.debug("cannot take over", exc_info=error)
        self.failed(error)
        os._exit(ZerofsError.exit_code)

    # -- a server that goes ----------------------------------------------------------------

    def attend(self) -> Event | None:
        """Take the message that is there."""
        message = messages.receive(self._connection)
        if message is None:
            self.leave_to_successor()
            return Event.ORPHANED
        if message.say == "retire":
            return Event.RETIRE
        log.debug("the supervisor says %s, which means nothing now", message.say)
        return None

    def leave_to_successor(self) -> None:
        """End here and now, where the supervisor is dead and another one will go on with the mount.

        It is the supervisor's death that counts, which comes before the signals that systemd then sends to what is
        left of the service.
        """
        poll = select.poll()
        poll.register(self._connection, 0)
        if self._deposited and self._handed_over and poll.poll(0):
            log.warning("the supervisor is dead: the mount waits for another one")
            os._exit(ZerofsError.exit_code)

    def await_dismissal(self, *, drained: bool) -> bool:
        """Say that no request is taken any more, and wait; False: the successor failed, so go on."""
        messages.send(self._connection, "retired", drained=drained)
        self._connection.settimeout(_PATIENCE)
        try:
            answer = messages.receive(self._connection)
        except TimeoutError:
            return False
        finally:
            self._connection.settimeout(None)
        self.retired = answer is not None and answer.say == "leave"
        return self.retired

    def ending(self) -> None:
        """The mount is being taken down, on purpose: a successor would have to go on with that."""
        messages.send(self._connection, "ending")

    def ended(self) -> None:
        """All is taken down."""
        messages.send(self._connection, "ended")


def _read(descriptor: int) -> dict[str, Any]:
    try:
        size = os.fstat(descriptor).st_size
        document: dict[str, Any] = json.loads(os.pread(descriptor, size, 0))
    finally:
        os.close(descriptor)
    if document["version"] != VERSION:
        raise TakeoverError(
            f"the state of the mount is of version {document['version']}, this program knows {VERSION}",
            hint="unmount and mount again to use this program",
        )
    return document
