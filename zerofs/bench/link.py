"""A link emulated in front of a server: a TCP proxy with a delay, a jitter and a rate that all connections share.

``python -m zerofs.bench.link HOST PORT RTT RATE JITTER`` listens on a free port of loopback and prints it.  It
answers every line on its standard input with what has passed since the last one, as JSON, and ends when its input
does.  `zerofs.bench.linkprocess` starts one.

When a byte comes out is arithmetic (`zerofs.bench.line`), so late wake-ups do not add up; the loop only has to
be there in time.  Hence a process of its own, of one thread, that asks for a real-time priority.  A connection is
set up as over a real link: its first byte travels one round trip later.  What is not emulated is TCP's own caution:
no connection starts slowly, nothing is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable

import hiredis

from zerofs.bench.line import Conditions, Line
from zerofs.bench.linkprocess import Passed

_BACKLOG = 128
_READY = (
    2 << 20
)  # bytes that a server may have sent before the line takes them: it must not run empty in between
_HELD = 64  # pieces that a receiver without room may have waiting
_PRIORITY = 1  # the least of the real-time ones: ahead of everything else here


class _Half:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, line: Line, begins: float) -> None:
        self.source, self.sink, self.line = source, sink, line
        self.begins = begins  # the moment from which on bytes go in
        self.due: deque[memoryview] = (
            deque()
        )  # came out of the line, and the sink has no room; empty: the end
        self.reading = True
        self.open = True
        self.requests: hiredis.Reader | None = None


class Link:
    """The proxy; `run` is its thread."""

    def __init__(
        self,
        server: tuple[str, int],
        conditions: Conditions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._clock = clock
        self._rtt = conditions.rtt
        self._up, self._down = Line(conditions, seed=1), Line(conditions, seed=2)
        self._travelling: dict[Line, deque[tuple[float, _Half, memoryview]]] = {
            line: deque() for line in (self._up, self._down)
        }
        self._halves: list[_Half] = []  # who has waited longest for the line goes first
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self._connections = self._requests = self._pieces = 0
        self._keys: dict[bytes, None] = {}
        self._bytes = {self._up: 0, self._down: 0}
        self._late_sum = self._late_most = 0.0

    def passed(self) -> Passed:
        """The counts since the last `reset`."""
        return Passed(
            connections=self._connections,
            requests=self._requests,
            keys=tuple(key.hex() for key in self._keys),
            sent=self._bytes[self._up],
            received=self._bytes[self._down],
            late_mean=self._late_sum / max(self._pieces, 1),
            late_most=self._late_most,
        )

    def close(self) -> None:
        """Close every socket."""
        self._listener.close()
        for half in self._halves:
            half.source.close()

    def run(self, control: int) -> None:
        """Serve until the descriptor `control` has something to read."""
        while not self.step(control):
            pass

    def step(self, control: int) -> bool:
        """Wait for what comes next and do it; whether it was the control descriptor."""
        now = self._clock()
        self._let_out(now)
        readers = [half for half in self._halves if half.reading and self._may_read(half, now)]
        writers = [half for half in self._halves if half.due and half.open]
        wanted: list[int | socket.socket] = [control, self._listener, *(half.source for half in readers)]
        readable, writable, _ = select.select(
            wanted,
            [half.sink for half in writers],
            [],
            self._patience(now),
        )
        now = self._clock()
        for half in writers:
            if half.sink in writable:
                self._write(half)
        for half in readers:
            if half.reading and half.source in readable and self._may_read(half, now):
                self._read(half, now)
        if self._listener in readable:
            self._accept(now)
        return control in readable

    def _may_read(self, half: _Half, now: float) -> bool:
        return half.begins <= now and half.line.opens() <= now and len(half.due) < _HELD

    def _patience(self, now: float) -> float | None:
        """Seconds until something comes out of a line, or may go in; None where only others can do something."""
        moments = [queue[0][0] for queue in self._travelling.values() if queue]
        moments += [
            moment
            for half in self._halves
            if half.reading and (moment := max(half.begins, half.line.opens())) > now
        ]
        return max(0.0, min(moments) - self._clock()) if moments else None

    def _accept(self, now: float) -> None:
        client, _ = self._listener.accept()
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READY)
        try:
            server.connect(self._server)
        except OSError:
            server.close()
            client.close()
            return
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections += 1
        up = _Half(client, server, self._up, now + self._rtt)
        up.requests = hiredis.Reader()
        self._halves += [up, _Half(server, client, self._down, now)]

    def _read(self, half: _Half, now: float) -> None:
        """Put one piece into the line; the next turn is that of the others."""
        try:
            data = half.source.recv(half.line.piece)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        half.reading = bool(data)
        self._halves.remove(half)
        self._halves.append(half)
        self._bytes[half.line] += len(data)
        if half.requests is not None:
            self._count(half, data)
        self._travelling[half.line].append((half.line.put(len(data), now), half, memoryview(data)))

    def _count(self, half: _Half, data: bytes) -> None:
        assert half.requests is not None
        try:
            half.requests.feed(data)
            while isinstance(command := half.requests.gets(), list):
                self._requests += 1
                if command[0].upper() == b"GET":
                    self._keys[command[1]] = None
        except hiredis.ProtocolError:
            half.requests = None  # another protocol passes as well, uncounted

    def _let_out(self, now: float) -> None:
        for queue in self._travelling.values():
            while queue and queue[0][0] <= now:
                moment, half, data = queue.popleft()
                late = self._clock() - moment
                self._pieces += 1
                self._late_sum += late
                self._late_most = max(self._late_most, late)
                half.due.append(data)
                self._write(half)

    def _write(self, half: _Half) -> None:
        """Hand over what has come out, as far as the receiver takes it."""
        while half.due and half.open:
            data = half.due[0]
            try:
                if not data:
                    half.sink.shutdown(socket.SHUT_WR)
                    self._finish(half)
                    return
                size = half.sink.send(data)
            except BlockingIOError:
                return
            except OSError:
                self._finish(half)  # who does not listen any more needs nothing
                _shut(half.source)
                return
            if size < len(data):
                half.due[0] = data[size:]
            else:
                half.due.popleft()

    def _finish(self, half: _Half) -> None:
        """Nothing more goes this way; the sockets are closed once that is so both ways."""
        half.open = half.reading = False
        other = next((each for each in self._halves if each.source is half.sink), None)
        if other is None or not other.open:
            half.source.close()
            half.sink.close()
            self._halves = [each for each in self._halves if each is not half and each is not other]


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):  # not connected any more
        each.shutdown(socket.SHUT_RDWR)


def _main() -> None:
    host, port, *numbers = sys.argv[1:]
    link = Link((host, int(port)), Conditions(*map(float, numbers)))
    with contextlib.suppress(PermissionError):  # then it is as punctual as the machine is idle
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    print(link.port, flush=True)
    while True:
        link.run(0)
        if not os.read(0, 1):
            return
        print(json.dumps(link.passed()._asdict()), flush=True)
        link.reset()


if __name__ == "__main__":
    _main()
