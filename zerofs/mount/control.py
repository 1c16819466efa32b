"""The control socket of a mount: who may ask it how it fares, and how they are answered.

Place: beside the way of a read; made by `service` once the mount can be used, and asked by `inquiry`.  It is private:
the directory and the socket are its owner's, and the kernel says who connects.  The protocol is one line of JSON,
such as ``{"ask": "stats"}``, answered by one document of JSON, after which the server hangs up.

Threads: the main thread's loop (`watch`) calls `serve` when somebody asks, and sleeps otherwise; nobody is
waited for.  What a client has sent, and what it has not yet read, is kept until it goes on; who comes when
`MOST_CLIENTS` are connected takes the place of the oldest.  So a client that is stuck costs a descriptor, and no time.
No locks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
from collections.abc import Callable

from zerofs.mount import controlplace

log = logging.getLogger(__name__)

MOST_CLIENTS = 8
MOST_REQUEST = 1024  # bytes
CREDENTIALS = struct.Struct("3i")  # process, user, group: struct ucred

Provider = Callable[[], dict[str, object]]


class Control:
    """Listens as soon as it is made.  `fileno` becomes readable when `serve` has something to do.

    `provider` makes the document that is asked for; it must not wait for anything.  Raises OSError where this
    process has no place for a socket.  `listener`: that of somebody else, who keeps the name.
    """

    def __init__(self, provider: Provider, listener: socket.socket | None = None) -> None:
        self._provider = provider
        self._clients: dict[int, _Client] = {}  # by descriptor, the oldest first
        with contextlib.ExitStack() as stack:
            self._listener = (
                stack.enter_context(controlplace.Place()).socket if listener is None else listener
            )
            self._epoll = stack.enter_context(select.epoll())
            # edge-triggered: a connection that cannot be accepted, for want of descriptors, must not keep us busy
            self._epoll.register(self._listener, select.EPOLLIN | select.EPOLLET)
            self._closing = stack.pop_all()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def serve(self) -> None:
        """Go on with every client that can go on, and return at once."""
        for fd, _ in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._clients and self._go_on(self._clients[fd]):
                self._drop(fd)

    def close(self) -> None:
        """Hang up, and take the socket's name away."""
        for fd in list(self._clients):
            self._drop(fd)
        self._closing.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # nobody more, or no descriptor for them: they ask again
            if not _is_welcome(connection):
                connection.close()
                continue
            if len(self._clients) == MOST_CLIENTS:
                self._drop(next(iter(self._clients)))
            connection.setblocking(False)
            try:
                self._epoll.register(connection, select.EPOLLIN)
            except OSError as error:  # the user's bound on what epoll watches
                log.debug("cannot talk to somebody who asks: %s", error)
                connection.close()
                continue
            self._clients[connection.fileno()] = _Client(connection)

    def _go_on(self, client: _Client) -> bool:
        """Read what `client` asks, or write its answer, as far as that goes; whether it is done with."""
        try:
            if client.answer is None:
                request = client.receive()
                if request is None:
                    return False
                client.answer = memoryview(_encoded(self._answer(request)))
                self._epoll.modify(client.connection, select.EPOLLOUT)
            return client.send()
        except OSError:
            return True

    def _answer(self, request: bytes) -> dict[str, object]:
        try:
            asked = json.loads(request)["ask"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return {"error": "the request is not understood"}
        if asked != "stats":
            return {"error": "nothing is known of what is asked for"}
        try:
            told = self._provider()
            json.dumps(told)
        except Exception:
            log.exception("counting for who asked")
            return {"error": "the mount cannot say; its log has more"}
        return told

    def _drop(self, fd: int) -> None:
        client = self._clients.pop(fd)
        self._epoll.unregister(client.connection)
        client.connection.close()


class _Client:
    """One who asks."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._request = bytearray()
        self.answer: memoryview | None = None  # what is still to be sent

    def receive(self) -> bytes | None:
        """The line that it sent; None while more is to come.  Raises OSError where it hung up before its end."""
        try:
            data = self.connection.recv(MOST_REQUEST)
        except BlockingIOError:
            return None
        self._request += data
        line, end, _ = self._request.partition(b"\n")
        if end or len(self._request) > MOST_REQUEST:
            return bytes(line)  # cut where it is too long, so nobody understands it
        if not data:
            raise ConnectionAbortedError
        return None

    def send(self) -> bool:
        """Send what the client takes now; whether that was all."""
        assert self.answer is not None
        try:
            self.answer = self.answer[self.connection.send(self.answer) :]
        except BlockingIOError:
            return False
        return not self.answer


def _is_welcome(connection: socket.socket) -> bool:
    """Whether the one at the other end is the mount's owner, or root."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return CREDENTIALS.unpack(credentials)[1] in (0, os.geteuid())


def _encoded(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode() + b"\n"
