"""A `dir` store served by a web server: read with kept connections, never written.

``http.client`` speaks HTTP on top of a `Wire`, so headers and bodies that trickle in end at the deadline too.
Requests on one connection follow each other; several threads use several connections.  Thread-safe.
"""

from __future__ import annotations

import http.client
import io
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreProtocolError,
    StoreReadOnlyError,
    StoreTimeoutError,
    StoreUnreachableError,
)
from zerofs.store.base import MAX_PAYLOAD, Payload
from zerofs.store.connection import ANSWER_TIMEOUT
from zerofs.store.ids import id_text
from zerofs.store.pool import ConnectionPool
from zerofs.store.url import StoreUrl, quote
from zerofs.store.wire import CONNECT_TIMEOUT, WOULD_BLOCK, Wire, connect

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_MAX_DISCARDED = 64 * 1024  # bytes of an error page that are read to keep the connection

_Result = tuple[int, bytes]  # status, body


class WebStore:
    """A store behind an ``http://`` or ``https://`` URL."""

    def __init__(self, url: StoreUrl) -> None:
        self.display = url.display
        self._base = quote(url.path)
        self._headers = {"User-Agent": "zerofs", "Accept": "*/*"}
        if url.auth:
            self._headers["Authorization"] = "Basic " + b64encode(b":".join(url.auth)).decode("ascii")
        self._pool = ConnectionPool(lambda deadline: _WebConnection.open(url, deadline))

    def get_many(self, ids: Sequence[bytes], deadline: float) -> Iterator[bytes | None]:
        for chunk_id in ids:
            yield self._find("GET", chunk_id, deadline)

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[list[bytes | None]]:
        return ([payload] for payload in self.get_many(ids, deadline))

    def is_patient(self) -> bool:
        return False

    def exists_many(self, ids: Sequence[bytes], deadline: float) -> list[bool]:
        return [self._find("HEAD", chunk_id, deadline) is not None for chunk_id in ids]

    def put_many(self, items: Sequence[tuple[bytes, Payload]], deadline: float) -> None:
        raise StoreReadOnlyError(f"{self.display}: a web server is only read")

    def close(self) -> None:
        self._pool.clear()

    def _find(self, method: str, chunk_id: bytes, deadline: float) -> bytes | None:
        name = id_text(chunk_id)
        for place in (f"{self._base}/{name[:2]}/{name}", f"{self._base}/{name}"):
            status, body = self._request(method, place, deadline)
            if status == http.client.OK and (body or method == "HEAD"):
                return body
            if status not in (http.client.OK, http.client.NOT_FOUND, http.client.GONE):
                raise self._failed(status)
        return None

    def _request(self, method: str, place: str, deadline: float) -> _Result:
        """One request.  A kept connection that turns out to be dead is replaced once, unseen."""
        while True:
            connection, used_before = self._pool.take(deadline)
            try:
                status, body, reusable = connection.request(method, place, self._headers, deadline)
            except (StoreTimeoutError, StoreProtocolError):
                connection.close()
                raise
            except StoreUnreachableError:
                connection.close()
                if not used_before:
                    raise
                self._pool.clear()
                continue
            except BaseException:
                connection.close()
                raise
            if reusable:
                self._pool.give(connection)
            else:
                connection.close()
            return status, body

    def _failed(self, status: int) -> StoreError:
        reason = f"{self.display}: HTTP status {status} {http.client.responses.get(status, '')}".rstrip()
        if status in (401, 403, 407):
            return StoreAuthError(reason)
        if 300 <= status < 400:
            return StoreError(f"{reason}: redirects are not followed", hint="give the URL that it leads to")
        if status in (408, 425, 429) or status >= 500:
            return StoreUnreachableError(reason)
        return StoreError(reason)


class _WebConnection:
    """One kept connection; one thread at a time."""

    def __init__(self, url: StoreUrl, wire: Wire) -> None:
        self._display = url.display
        self._wire = wire
        self._socket = _Socket(wire)
        # The port stands in the Host header, unless it is the scheme's own.
        own = http.client.HTTPS_PORT if url.scheme == "https" else http.client.HTTP_PORT
        self._http = http.client.HTTPConnection(url.host, url.port)
        self._http.default_port = own
        self._http.auto_open = 0
        self._http.sock = self._socket

    @classmethod
    def open(cls, url: StoreUrl, deadline: float) -> _WebConnection:
        return cls(url, connect(url, min(deadline, time.monotonic() + CONNECT_TIMEOUT)))

    def request(
        self, method: str, place: str, headers: dict[str, str], deadline: float
    ) -> tuple[int, bytes, bool]:
        """Status, body (of a 200 only), and whether the connection can be used again."""
        self._socket.deadline = min(deadline, time.monotonic() + ANSWER_TIMEOUT)
        try:
            self._http.request(method, place, headers=headers)
            response = self._http.getresponse()
            limit = MAX_PAYLOAD if response.status == http.client.OK else _MAX_DISCARDED
            if (response.length or 0) > limit and response.status == http.client.OK:
                raise StoreProtocolError(f"{self._display}: announces more bytes than any chunk has")
            body = response.read(limit + 1) if method == "GET" else response.read()
        except (http.client.RemoteDisconnected, http.client.IncompleteRead) as fault:
            raise StoreUnreachableError(f"{self._display}: the connection was closed") from fault
        except (http.client.HTTPException, ValueError) as fault:
            raise StoreProtocolError(f"{self._display}: malformed answer ({type(fault).__name__})") from fault
        if len(body) > limit and response.status == http.client.OK:
            raise StoreProtocolError(f"{self._display}: sends more bytes than any chunk has")
        if response.status == http.client.OK and method == "GET" and response.length:
            raise StoreUnreachableError(f"{self._display}: the answer was cut short")
        return response.status, body, response.isclosed() and not response.will_close

    def is_stale(self) -> bool:
        return self._wire.is_stale()

    def close(self) -> None:
        self._http.close()
        self._wire.close()


class _Socket:
    """As much of a socket as http.client uses, with a deadline for everything."""

    def __init__(self, wire: Wire) -> None:
        self.deadline = 0.0
        self._wire = wire

    def sendall(self, data: ReadableBuffer) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            size = self._wire.send(rest)
            if size == WOULD_BLOCK:
                self._wire.wait(self.deadline, writing=True)
            else:
                rest = rest[size:]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self, self._wire), 64 * 1024)

    def close(self) -> None:
        """The wire outlives the answers that are read from it."""


class _Incoming(io.RawIOBase):
    def __init__(self, owner: _Socket, wire: Wire) -> None:
        self._owner = owner
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while True:
            if time.monotonic() >= self._owner.deadline:
                raise StoreTimeoutError(f"{self._wire.display}: no answer in time")
            size = self._wire.receive(view)
            if size != WOULD_BLOCK:
                return size
            self._wire.wait(self._owner.deadline, writing=False)
