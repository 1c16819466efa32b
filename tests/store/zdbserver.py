"""A 0-db in little: what a real one was seen to answer, its refusals included.

The tests of the zdb client run against this and, where there is one, against a real server.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from typing import Self

MAX_VALUE = 8 * 1024 * 1024
MAX_KEY = 255
MAX_ARGUMENTS = 1024


class _Closed(Exception):
    pass


class ZdbServer:
    """Serves on `port`.  `namespaces`: name → password or None.  `commands` are the names that came in."""

    def __init__(
        self, *, admin: bytes | None = None, namespaces: dict[bytes, bytes | None] | None = None
    ) -> None:
        self.admin = admin
        self.passwords: dict[bytes, bytes | None] = {b"default": None, **(namespaces or {})}
        self.values: dict[bytes, dict[bytes, bytes]] = {name: {} for name in self.passwords}
        self.commands: list[bytes] = []
        owner = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                _Session(owner, self.rfile.readline, self.rfile.read, self.wfile.write).run()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.server_bind()
        self._server.server_activate()
        self.host, self.port = self._server.server_address
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Session:
    def __init__(
        self,
        server: ZdbServer,
        readline: Callable[[], bytes],
        read: Callable[[int], bytes],
        write: Callable[[bytes], object],
    ) -> None:
        self._server = server
        self._readline = readline
        self._read = read
        self._write = write
        self._namespace = b"default"
        self._writable = True

    def run(self) -> None:
        try:
            while arguments := self._request():
                self._server.commands.append(arguments[0].upper())
                self._write(self._answer(arguments[0].upper(), arguments[1:]) + b"\r\n")
        except (_Closed, ConnectionError):
            return

    def _request(self) -> list[bytes]:
        head = self._readline()
        if not head.startswith(b"*"):
            return []
        arguments = []
        for _ in range(int(head[1:])):
            size = int(self._readline()[1:])
            if size > MAX_VALUE:
                raise _Closed
            arguments.append(self._read(size + 2)[:-2])
        return arguments

    def _answer(self, name: bytes, arguments: list[bytes]) -> bytes:
        if len(arguments) >= MAX_ARGUMENTS:
            return b"-Invalid arguments"
        handler = {
            b"PING": lambda: b"+PONG",
            b"AUTH": self._auth,
            b"SELECT": self._select,
            b"GET": self._get,
            b"SET": self._set,
            b"EXISTS": self._exists,
        }.get(name)
        return handler(*arguments) if handler else b"-Command not supported"

    def _auth(self, password: bytes) -> bytes:
        if self._server.admin is None:
            return b"-Authentication disabled"
        return b"+OK" if password == self._server.admin else b"-Access denied"

    def _select(self, name: bytes, password: bytes | None = None) -> bytes:
        if name not in self._server.passwords:
            return b"-Namespace not found"
        wanted = self._server.passwords[name]
        if wanted is not None and password is not None and password != wanted:
            return b"-Access denied"
        self._namespace = name
        self._writable = wanted is None or password == wanted
        return b"+OK"

    @property
    def _values(self) -> dict[bytes, bytes]:
        return self._server.values[self._namespace]

    def _get(self, key: bytes) -> bytes:
        if len(key) > MAX_KEY:
            return b"-Invalid key"
        value = self._values.get(key)
        return b"$-1" if value is None else b"$%d\r\n%b" % (len(value), value)

    def _set(self, key: bytes, value: bytes) -> bytes:
        if len(key) > MAX_KEY:
            return b"-Key too large"
        if not self._writable:
            return b"-Namespace is in read-only mode"
        if self._values.get(key) == value:
            return b"$-1"
        self._values[key] = value
        return b"$%d\r\n%b" % (len(key), key)

    def _exists(self, key: bytes) -> bytes:
        return b"-Invalid key" if len(key) > MAX_KEY else b":%d" % (key in self._values)
