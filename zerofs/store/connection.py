"""One RESP connection: requests go out in a window, answers are handed out as they arrive.

Reading never waits for writing nor the other way round: whatever the socket takes or has is moved, so
two full socket buffers cannot lock each other.  A connection belongs to one thread at a time and needs
no lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from zerofs.errors import (
    StoreError,
    StoreProtocolError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnreachableError,
)
from zerofs.store._resp import Answers, encode
from zerofs.store.base import MAX_BATCH, Payload
from zerofs.store.resp import ARRAY, ERROR, Answer, answer_error
from zerofs.store.spares import Spares
from zerofs.store.url import StoreUrl
from zerofs.store.wire import CONNECT_TIMEOUT, WOULD_BLOCK, Wire, connect

ANSWER_TIMEOUT = 10.0  # seconds from one answer, or from the last byte that could be sent, to the next answer
MAX_IN_FLIGHT = 64  # requests without an answer
MAX_QUEUED = 2 * 1024 * 1024  # bytes of requests that wait for the socket
MAX_NESTED = 1 << 19  # elements of an answer with arrays, those of inner ones included
MAX_DEPTH = 6  # of arrays in arrays

Command = Sequence[Payload]
Nested = Payload | int | None | list["Nested"]


class RespConnection:
    """A connection that is logged in and in the URL's database or namespace."""

    def __init__(self, wire: Wire, spares: Spares | None = None) -> None:
        self._wire = wire
        self._answers = Answers(wire.display, spares)
        self._out: deque[memoryview] = deque()
        self._queued = 0  # bytes in `_out`
        self._here: deque[Answer] = deque()  # have arrived and were not handed out yet
        self._fault: StoreError | None = None  # what comes after that

    @classmethod
    def open(
        cls, url: StoreUrl, deadline: float, spares: Spares | None = None, greeting: Sequence[Command] = ()
    ) -> RespConnection:
        """Connect, log in and send `greeting`.  Raises StoreUnreachableError or StoreRefusedError."""
        deadline = min(deadline, time.monotonic() + CONNECT_TIMEOUT)
        connection = cls(connect(url, deadline), spares)
        try:
            exchange = connection.exchange([*_introduction(url), *greeting], deadline)
            for answer in chain.from_iterable(exchange):
                if answer.kind == ERROR and isinstance(answer.value, bytes):
                    raise _refused(url, answer.value)
        except BaseException:
            connection.close()
            raise
        return connection

    def exchange(
        self, commands: Iterable[Command], deadline: float, quiet: float = ANSWER_TIMEOUT
    ) -> Iterator[list[Answer]]:
        """The answer to each command, in order, those at a time that are here when the first of them is.

        The first requests are on their way when this returns.

        `quiet`: seconds after which a server that says nothing at all is given up.  The iterator raises
        StoreUnreachableError and its kinds.  Unless it runs to its end, close the connection.
        """
        source = iter(commands)
        in_flight, exhausted = self._queue(source, MAX_IN_FLIGHT)
        try:
            self._send()
        except StoreError as fault:
            self._fault = fault
        return self._answers_to(source, in_flight, exhausted, deadline, quiet)

    def inquire(self, command: Command, deadline: float) -> Nested:
        """The answer to one command, arrays as lists.  Raises the StoreError for an error answer, as it stands.

        After any error close the connection.
        """
        self._queue(iter([command]), 1)
        self._answers.nested = True
        elements = self._elements(deadline)
        answer = self._nest(elements, MAX_DEPTH)
        self._answers.nested = False
        return answer

    def has_answer(self) -> bool:
        """Whether the next answer is here.  Takes in what the socket has, and does not wait.

        What is wrong with the connection is told by whoever goes on with it.
        """
        try:
            return self._take_in()
        except StoreError as fault:
            self._fault = fault
            return False

    def has_answer_within(self, seconds: float) -> bool:
        """Whether the next answer, or the reason why there is none, is here before so many seconds are over."""
        limit = time.monotonic() + seconds
        while not self.has_answer() and self._fault is None:
            try:
                self._send()
                self._wire.wait(limit, writing=bool(self._out))
            except StoreTimeoutError:
                return False
            except StoreError as fault:
                self._fault = fault
        return True

    def is_stale(self) -> bool:
        return self._answers.pending or bool(self._out) or self._wire.is_stale()

    def close(self) -> None:
        self._wire.close()

    def _answers_to(
        self, source: Iterator[Command], in_flight: int, exhausted: bool, deadline: float, quiet: float
    ) -> Iterator[list[Answer]]:
        while True:
            if not exhausted and in_flight <= MAX_IN_FLIGHT // 2:
                added, exhausted = self._queue(source, MAX_IN_FLIGHT - in_flight)
                in_flight += added
            if not in_flight:
                self._answers.take()  # raises where more came than was asked for
                return
            # Where more is to be asked, it is before the server runs out of requests.
            most = in_flight if exhausted else in_flight - MAX_IN_FLIGHT // 2
            batch = self._next_answers(most, deadline, quiet)
            in_flight -= len(batch)
            yield batch

    def _elements(self, deadline: float) -> Iterator[Answer]:
        for _ in range(MAX_NESTED):
            self._await_answer(deadline, ANSWER_TIMEOUT)
            yield self._here.popleft()
        raise StoreProtocolError(f"{self._wire.display}: an answer with too many elements")

    def _nest(self, elements: Iterator[Answer], depth: int) -> Nested:
        kind, value = next(elements)
        if kind == ERROR and isinstance(value, bytes):
            raise answer_error(self._wire.display, value)
        if kind != ARRAY or not isinstance(value, int):
            return value
        if not depth:
            raise StoreProtocolError(f"{self._wire.display}: arrays nested too deeply")
        return [self._nest(elements, depth - 1) for _ in range(value)]

    def _queue(self, source: Iterator[Command], room: int) -> tuple[int, bool]:
        """Queue up to `room` commands; how many, and whether there are no more."""
        pieces, added, exhausted = encode(source, room, MAX_QUEUED - self._queued)
        for piece in pieces:
            self._out.append(memoryview(piece))
            self._queued += len(piece)
        self._answers.expected += added
        return added, exhausted

    def _next_answers(self, most: int, deadline: float, quiet: float) -> list[Answer]:
        """The next answer once it is here, and what else is there then: about `most`, and `MAX_BATCH` bytes."""
        held = sum([len(each.value) for each in self._here if isinstance(each.value, (bytes, bytearray))])
        self._answers.full_at = self._answers.payload_bytes - held + MAX_BATCH
        self._await_answer(deadline, quiet)
        batch: list[Answer] = []
        while True:
            batch += self._here
            self._here.clear()
            is_full = len(batch) >= most or self._answers.payload_bytes >= self._answers.full_at
            if is_full or not self.has_answer():
                return batch

    def _await_answer(self, deadline: float, quiet: float) -> None:
        if self._here:
            return
        if self._fault is not None:
            raise self._fault
        limit = min(deadline, time.monotonic() + ANSWER_TIMEOUT)
        while not self._take():
            if self._send():
                limit = min(deadline, time.monotonic() + ANSWER_TIMEOUT)
            size = self._wire.receive(self._answers.room())
            if size == 0:
                raise self._closed()
            if size == WOULD_BLOCK or time.monotonic() >= limit:
                self._wire.wait(min(limit, time.monotonic() + quiet), writing=bool(self._out))
            else:
                self._answers.received(size)

    def _take_in(self) -> bool:
        while not self._here:
            if not self._answers.pending:
                return False
            if not self._take():
                size = self._wire.receive(self._answers.room())
                if size == WOULD_BLOCK:
                    return False
                if size == 0:
                    raise self._closed()
                self._answers.received(size)
        return True

    def _take(self) -> bool:
        """Whether whole answers have been received; they are in `_here` then."""
        self._here.extend(self._answers.take())
        return bool(self._here)

    def _closed(self) -> StoreUnreachableError:
        return StoreUnreachableError(f"{self._wire.display}: the connection was closed")

    def _send(self) -> bool:
        """Send what the socket takes; whether it took anything."""
        sent = False
        while self._out:
            size = self._wire.send(self._out[0])
            if size == WOULD_BLOCK:
                break
            sent = True
            self._queued -= size
            if size == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][size:]
        return sent


def _introduction(url: StoreUrl) -> list[Command]:
    """What is sent before the first request: only what the URL asks for, as 0-db refuses all else."""
    commands: list[Command] = []
    if url.auth:
        commands.append((b"AUTH", *url.auth))
    if url.namespace:
        commands.append((b"SELECT", url.namespace, *filter(None, [url.namespace_password])))
    elif url.database:
        commands.append((b"SELECT", b"%d" % url.database))
    return commands


def _refused(url: StoreUrl, line: bytes) -> StoreError:
    """An error before the first request concerns every request."""
    fault = answer_error(url.display, line, url.secrets)
    if isinstance(fault, StoreRefusedError | StoreUnreachableError):
        return fault
    return StoreRefusedError(str(fault))
