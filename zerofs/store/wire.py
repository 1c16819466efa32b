"""A stream socket on which no wait passes its deadline: TCP, unix, or TLS over TCP.

The socket is non-blocking; whoever uses it sends and receives what goes at once and then `wait`s.
Not thread-safe: a wire belongs to one connection, and that to one thread at a time.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import time
from typing import TYPE_CHECKING

from zerofs.errors import (
    StoreProtocolError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnreachableError,
    reason_of,
)
from zerofs.store.resolve import Address, resolve
from zerofs.store.url import StoreUrl

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT = 5.0  # seconds, for all addresses of a name together, with TLS and log-in
WOULD_BLOCK = -1

_TLS_SCHEMES = frozenset({"rediss", "https"})


class Wire:
    """A connected socket.  Errors begin with `display`."""

    def __init__(self, sock: socket.socket, display: str) -> None:
        self.display = display
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._is_tcp = sock.family != socket.AF_UNIX

    def send(self, data: memoryview) -> int:
        """Bytes that went out at once, or `WOULD_BLOCK`."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return WOULD_BLOCK
        except OSError as fault:
            raise self._broken(fault) from fault

    def receive(self, buffer: memoryview) -> int:
        """Bytes that were there, 0 at the end of the stream, or `WOULD_BLOCK`."""
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return WOULD_BLOCK
        except OSError as fault:
            raise self._broken(fault) from fault

    def wait(self, deadline: float, *, writing: bool) -> None:
        """Until something can be received, or sent if `writing`.  Raises StoreTimeoutError."""
        self._poll.modify(self._socket.fileno(), select.POLLIN | (select.POLLOUT if writing else 0))
        if self._is_tcp:
            # A server that leaves Nagle's algorithm on (0-db does) holds small answers back until the last
            # one is acknowledged, which takes 40 ms otherwise.  The kernel forgets this option, hence here.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        left = deadline - time.monotonic()
        if left <= 0 or not self._poll.poll(left * 1000):
            raise StoreTimeoutError(f"{self.display}: no answer in time")

    def is_stale(self) -> bool:
        """Whether an idle wire has something to say: its end, or an answer that nobody asked for."""
        self._poll.modify(self._socket.fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    def close(self) -> None:
        self._socket.close()

    def _broken(self, fault: OSError) -> StoreUnreachableError:
        return StoreUnreachableError(f"{self.display}: {reason_of(fault)}")


class TlsWire(Wire):
    """The same with TLS: either direction may have to wait for the other."""

    _socket: ssl.SSLSocket

    def __init__(self, sock: ssl.SSLSocket, display: str) -> None:
        import ssl

        super().__init__(sock, display)
        self._wants_read: type[OSError] = ssl.SSLWantReadError
        self._wants_write: type[OSError] = ssl.SSLWantWriteError
        self._must_write = False

    def send(self, data: memoryview) -> int:
        try:
            return super().send(data)
        except StoreUnreachableError as fault:
            return self._blocked(fault)

    def receive(self, buffer: memoryview) -> int:
        try:
            return super().receive(buffer)
        except StoreUnreachableError as fault:
            return self._blocked(fault)

    def handshake(self, deadline: float) -> None:
        while True:
            try:
                self._socket.do_handshake()
                return
            except self._wants_read:
                self.wait(deadline, writing=False)
            except self._wants_write:
                self.wait(deadline, writing=True)

    def wait(self, deadline: float, *, writing: bool) -> None:
        super().wait(deadline, writing=writing or self._must_write)
        self._must_write = False

    def _blocked(self, fault: StoreUnreachableError) -> int:
        if isinstance(fault.__cause__, self._wants_read):
            return WOULD_BLOCK
        if isinstance(fault.__cause__, self._wants_write):
            self._must_write = True
            return WOULD_BLOCK
        raise fault


def connect(url: StoreUrl, deadline: float) -> Wire:
    """Connect to `url` within `deadline`.

    Raises StoreUnreachableError where nobody answers, StoreRefusedError where the certificate is not
    trusted.
    """
    if not url.host:
        return Wire(_connect_one((socket.AF_UNIX, os.fsdecode(url.path)), url.display, deadline), url.display)
    try:
        addresses = resolve(url.host, url.port, deadline)
    except StoreUnreachableError as fault:
        raise type(fault)(f"{url.display}: {fault}") from fault
    sock = _connect_first(addresses, url.display, deadline)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return _encrypt(sock, url, deadline) if url.scheme in _TLS_SCHEMES else Wire(sock, url.display)


def _connect_first(addresses: list[Address], display: str, deadline: float) -> socket.socket:
    """Each address in turn with its share of the time that is left."""
    for left in range(len(addresses), 1, -1):
        now = time.monotonic()
        try:
            return _connect_one(addresses[-left], display, now + max(0.0, deadline - now) / left)
        except StoreUnreachableError:
            continue  # the last address, below, tells what is wrong
    return _connect_one(addresses[-1], display, deadline)


def _connect_one(address: Address, display: str, deadline: float) -> socket.socket:
    family, target = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(target)
        if code == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLOUT)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise StoreTimeoutError(f"{display}: no connection in time")
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise StoreUnreachableError(f"{display}: {os.strerror(code)}")
    except BaseException:
        sock.close()
        raise
    return sock


def _encrypt(sock: socket.socket, url: StoreUrl, deadline: float) -> TlsWire:
    import ssl

    try:
        wire = TlsWire(
            _tls_context().wrap_socket(sock, server_hostname=url.host, do_handshake_on_connect=False),
            url.display,
        )
    except BaseException:
        sock.close()
        raise
    try:
        wire.handshake(deadline)
    except ssl.SSLCertVerificationError as fault:
        wire.close()
        raise StoreRefusedError(
            f"{url.display}: its certificate is not trusted: {fault.verify_message}",
            hint="SSL_CERT_FILE names a file with the certificates of further authorities",
        ) from fault
    except StoreTimeoutError as fault:
        wire.close()
        raise StoreTimeoutError(f"{url.display}: no TLS in time; does it speak TLS at all?") from fault
    except OSError as fault:
        wire.close()
        raise StoreProtocolError(f"{url.display}: no TLS: {reason_of(fault)}") from fault
    except BaseException:
        wire.close()
        raise
    return wire


@functools.cache
def _tls_context() -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context()
