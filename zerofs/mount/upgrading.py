"""Who asks a supervisor for an upgrade (`inquiry` does, for `zerofs upgrade`), and how they are answered.

The protocol is that of `control`: a line of JSON, ``{"ask": "upgrade"}``, answered by a document when the upgrade is
over.  Nobody is waited for; a client that is stuck costs a descriptor.  The supervisor's thread; no locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping

from zerofs.mount.controlplace import Place

MOST_ASKERS = 4
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class Askers:
    """Those who are connected.  `begin` starts an upgrade, or says why not; `answer` tells them all how it went."""

    def __init__(
        self,
        place: Place | None,
        add: Callable[[int, Callable[[], None]], None],
        remove: Callable[[int], None],
        begin: Callable[[], str | None],
    ) -> None:
        self._add, self._remove, self._begin = add, remove, begin
        self._silent: list[socket.socket] = []  # who have not asked yet
        self._waiting: list[socket.socket] = []  # for the end of an upgrade
        if place is not None:
            self._listener = place.socket
            add(place.socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] not in (0, os.geteuid()):
            connection.close()
            return
        if len(self._silent) == MOST_ASKERS:
            self._drop(self._silent[0])
        connection.setblocking(False)
        self._silent.append(connection)
        self._add(connection.fileno(), lambda: self._asked(connection))

    def _drop(self, connection: socket.socket) -> None:
        self._silent.remove(connection)
        self._remove(connection.fileno())
        connection.close()

    def _asked(self, connection: socket.socket) -> None:
        try:
            known = json.loads(connection.recv(1024)) == {"ask": "upgrade"}
        except (OSError, ValueError, RecursionError):
            self._drop(connection)
            return
        self._silent.remove(connection)
        self._remove(connection.fileno())
        problem = self._begin() if known else "nothing is known of what is asked for"
        if problem is None:
            self._waiting.append(connection)
        else:
            _tell(connection, {"error": problem})

    def answer(self, document: Mapping[str, object]) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            _tell(connection, document)


def _tell(connection: socket.socket, document: Mapping[str, object]) -> None:
    with contextlib.suppress(OSError), connection:
        connection.sendall(json.dumps(document).encode() + b"\n")
