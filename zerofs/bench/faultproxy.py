"""A TCP proxy on loopback that spoils the answers of the server behind it, on demand.

    with FaultProxy((server.host, server.port)) as proxy:
        proxy.fault = Fault("reset", after=1000)   # in force at once, for open connections too

What the client sends goes through untouched; a fault hits what comes back, after `after` bytes of each
connection counted from when the fault was set.  One thread accepts, two serve each connection.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from typing import Literal, NamedTuple, Self

Kind = Literal["delay", "loss", "trickle", "cut", "reset", "half-close", "silence", "garbage", "corrupt"]


class Fault(NamedTuple):
    """What happens to the answers.

    delay: every piece comes `seconds` late.  loss: one piece in `one_in` does, and what follows it, as when TCP sends
    again what was lost; the next one twice as late, up to eight times.
    trickle: one byte every `seconds`.  cut, reset: the connection ends with
    FIN or RST.  half-close: FIN, but requests are still taken.  silence: nothing more comes.
    garbage: `data` comes instead, and then silence.  corrupt: one byte is flipped, the rest is true.
    """

    kind: Kind
    after: int = 0  # bytes of answers that still come through
    seconds: float = 0.05
    data: bytes = b""
    one_in: int = 5


class FaultProxy:
    """Listens on `address`; closes everything when it is left.  `upstream` may change: for new connections."""

    def __init__(self, upstream: tuple[str, int] | str) -> None:
        self.upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.connections = 0  # accepted so far
        self._fault: Fault | None = None
        self._generation = 0  # counts settings of the fault
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards the next two
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def host(self) -> str:
        return self.address[0]

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def fault(self) -> Fault | None:
        """The fault in force; None lets everything through."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._generation += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def break_connections(self) -> None:
        """End every open connection; new ones are taken."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            _shut(each)

    def close(self) -> None:
        """End every connection and thread; the port refuses connections from then on."""
        self._closing.set()
        _shut(self._listener)
        self._listener.close()
        self.break_connections()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(10)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="faultproxy", daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = self._connect()
            except OSError:
                _linger(client)
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            self._start(self._forward, client, server)
            self._start(self._answer, server, client)

    def _connect(self) -> socket.socket:
        if isinstance(self.upstream, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.upstream)
            return server
        return socket.create_connection(self.upstream, timeout=None)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := _receive(client):
                server.sendall(data)
        except OSError:
            pass  # the other thread closed them
        _shut(server)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        try:
            self._spoil(server, client)
        except OSError:
            pass  # the client is gone, which is its right
        finally:
            _shut(server)
            _stop_reading(client)  # closing alone would not wake the other thread, nor send anything
            with self._lock:
                self._sockets -= {client, server}
            server.close()
            client.close()

    def _spoil(self, server: socket.socket, client: socket.socket) -> None:
        generation, passed = self._generation, 0
        chance, late = random.Random(self.connections), 0  # late: pieces lost in a row
        while data := _receive(server):
            if generation != self._generation:
                generation, passed = self._generation, 0
            fault = self._fault
            clean = data if fault is None else data[: max(0, fault.after - passed)]
            client.sendall(clean)
            passed += len(clean)
            rest = data[len(clean) :]
            if fault is not None and fault.kind == "loss":
                late = late + 1 if rest and chance.randrange(fault.one_in) == 0 else 0
                self._closing.wait(fault.seconds * (1 << min(late - 1, 3)) if late else 0)
            if rest and fault is not None and not self._strike(fault, rest, client):
                return
            if fault is not None and fault.kind == "corrupt" and rest:
                passed = -(1 << 62)  # one byte a connection is enough

    def _strike(self, fault: Fault, rest: bytes, client: socket.socket) -> bool:
        """Do what the fault says; whether the connection goes on."""
        match fault.kind:
            case "delay":
                self._closing.wait(fault.seconds)
                client.sendall(rest)
            case "loss":
                client.sendall(rest)
            case "trickle":
                for position in range(len(rest)):
                    self._closing.wait(fault.seconds)
                    client.sendall(rest[position : position + 1])
            case "corrupt":
                client.sendall(bytes([rest[0] ^ 0x01]) + rest[1:])
            case "cut":
                _shut(client)
                return False
            case "reset":
                _linger(client)
                return False
            case "garbage":
                client.sendall(fault.data)
                self._closing.wait(60)
                return False
            case "half-close":
                client.shutdown(socket.SHUT_WR)
                self._closing.wait(60)
                return False
            case "silence":
                self._closing.wait(60)
                return False
        return True


def _receive(each: socket.socket) -> bytes:
    """What came in; acknowledged at once, so that the proxy adds no delay of its own."""
    if each.family != socket.AF_UNIX:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return each.recv(65536)


def _linger(each: socket.socket) -> None:
    """Make closing it send RST."""
    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _stop_reading(each: socket.socket) -> None:
    """Wake whoever reads from it, without telling the peer."""
    try:
        each.shutdown(socket.SHUT_RD)
    except OSError:
        return  # not connected any more


def _shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # not connected any more
