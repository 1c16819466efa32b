"""RESP2 as far as stores speak it: commands out, answers in, nothing trusted.

Only the answers that the commands in use can have are let through: status, error, integer and bulk; arrays
only where `Answers.nested` says that one was asked for.  Each length is checked before anything is made by it,
and memory grows only as fast as bytes arrive.
"""

from __future__ import annotations

from typing import NamedTuple

import hiredis

from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreProtocolError,
    StoreReadOnlyError,
    StoreUnreachableError,
)
from zerofs.store.base import MAX_PAYLOAD, Payload
from zerofs.store.spares import Spares

MAX_LINE = 16 * 1024  # bytes of a status, an error or a length
MAX_DIGITS = 20  # of a number, its sign included
MAX_ARRAY = 65536  # elements

STATUS, ERROR, INTEGER, BULK, ARRAY = b"+-:$*"

_BUFFER = 64 * 1024  # bytes received at once; more than a line
_GLANCE = 4 * 1024  # bytes received at once where a long payload is likely to begin
_PACKED = 4096  # bytes; a longer argument is not copied into its command
_STEP = 1024 * 1024  # bytes; a longer payload gets its memory while it arrives


class Answer(NamedTuple):
    """One answer: `kind` is the byte that it began with."""

    kind: int
    value: Payload | int | None  # STATUS, ERROR: bytes; BULK: a payload, None for null; INTEGER, ARRAY: int


class Answers:
    """Reassembles the answers of one connection.  Errors begin with `display`.

    What the socket has goes where `room` says.  Lines and short payloads come through a buffer; a payload
    that is not all there gets a place of its own, and the rest is received right into it.

    `spares` are buffers to be used for that.  `expected` counts the answers that are still to begin: a
    server that sends more is broken.  An array is its length, and its elements are further answers.
    """

    def __init__(self, display: str, spares: Spares | None = None) -> None:
        self.expected = 0
        self.nested = False  # whether an array is let through; then no element may be longer than a line
        self._spares = spares or Spares()
        self._display = display
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0  # of what was received and not taken
        self._most = _BUFFER  # bytes to receive into the buffer at once
        self._body: bytearray | None = None  # a payload on its way, its line end included
        self._filled = 0  # bytes of it that are here
        self._missing = 0  # bytes that do not have their memory yet

    def room(self) -> memoryview:
        """Where the next bytes go; `received` is to be told how many.  Let go of it before the next call."""
        if self._body is not None:
            if self._filled == len(self._body):
                self._grow(self._body)
            return memoryview(self._body)[self._filled :]
        if self._begin:  # a line that was cut off, or nothing, is left
            left = self._end - self._begin
            self._buffer[:left] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, left
        return self._view[self._end : self._end + self._most]

    def received(self, size: int) -> None:
        if self._body is not None:
            self._filled += size
        else:
            self._end += size
            self._most = _BUFFER

    def take(self) -> Answer | None:
        """The next whole answer, or None while it is incomplete.  Raises StoreProtocolError."""
        if self._body is not None:
            return self._take_body(self._body)
        if self._begin == self._end:
            return None
        kind = self._buffer[self._begin]
        if kind not in (STATUS, ERROR, INTEGER, BULK) and not (kind == ARRAY and self.nested):
            raise self._fault("answer of a type that was not asked for")
        if self.expected <= 0:
            raise self._fault("answer to no question")
        end = self._buffer.find(b"\n", self._begin, min(self._end, self._begin + MAX_LINE)) + 1
        if not end:
            if self._end - self._begin >= MAX_LINE:
                raise self._fault("endless line")
            return None
        if self._buffer[end - 2] != ord("\r"):
            raise self._fault("malformed line")
        line = bytes(self._view[self._begin + 1 : end - 2])
        self.expected -= 1
        self._begin = end
        if kind == BULK:
            return self._take_bulk(self._number(line))
        if kind == ARRAY:
            return self._begin_array(self._number(line))
        return Answer(kind, self._number(line) if kind == INTEGER else line)

    @property
    def pending(self) -> bool:
        """Whether anything is under way: only a connection where nothing is can be used again."""
        return bool(self.expected or self._begin != self._end or self._body is not None)

    def _number(self, digits: bytes) -> int:
        if len(digits) > MAX_DIGITS or not digits.removeprefix(b"-").isdigit():
            raise self._fault("malformed number")
        return int(digits)

    def _begin_array(self, length: int) -> Answer:
        if not 0 <= length <= MAX_ARRAY:
            raise self._fault("malformed length")
        self.expected += length
        return Answer(ARRAY, length)

    def _take_bulk(self, length: int) -> Answer | None:
        if length > MAX_PAYLOAD or (self.nested and length > MAX_LINE):
            raise self._fault(f"announces {length} bytes, more than any chunk has")
        if length < -1:
            raise self._fault("malformed length")
        if length == -1:
            return Answer(BULK, None)
        begin, end = self._begin, self._begin + length
        if end + 2 > self._end:
            return self._begin_body(length + 2)
        if self._buffer[end : end + 2] != b"\r\n":
            raise self._length_fault()
        self._begin = end + 2
        return Answer(BULK, bytes(self._view[begin:end]))

    def _begin_body(self, size: int) -> Answer | None:
        """Give the payload that begins in the buffer a place of its own."""
        self._body = self._spares.take(min(size, _STEP))
        self._missing = size - len(self._body)
        self._filled = self._end - self._begin
        self._body[: self._filled] = self._view[self._begin : self._end]
        self._begin = self._end = 0
        return self._take_body(self._body)

    def _grow(self, body: bytearray) -> None:
        more = min(self._missing, len(body))
        body += bytes(more)
        self._missing -= more

    def _take_body(self, body: bytearray) -> Answer | None:
        if self._missing or self._filled <= len(body) - 2:
            return None
        if body[-2] != ord("\r"):
            raise self._length_fault()
        if self._filled < len(body):
            return None
        if body[-1] != ord("\n"):
            raise self._length_fault()
        del body[-2:]
        self._body = None
        # After a long payload another one is likely: but for its first bytes it is to miss the buffer.
        self._most = _GLANCE if len(body) > _GLANCE else _BUFFER
        return Answer(BULK, body)

    def _length_fault(self) -> StoreProtocolError:
        return self._fault("a length does not fit its payload")

    def _fault(self, reason: str) -> StoreProtocolError:
        return StoreProtocolError(f"{self._display}: {reason}")


def encode(*arguments: Payload) -> list[Payload]:
    """A command as pieces to send: hiredis packs it, but a large argument stays a piece of its own, uncopied."""
    if max(map(len, arguments)) <= _PACKED:
        return [hiredis.pack_command(tuple(map(bytes, arguments)))]  # type: ignore[arg-type]  # its stub wants one
    pieces: list[Payload] = []
    text = bytearray(b"*%d\r\n" % len(arguments))
    for argument in arguments:
        text += b"$%d\r\n" % len(argument)
        if len(argument) > _PACKED:
            pieces += (bytes(text), argument)
            text = bytearray(b"\r\n")
        else:
            text += argument + b"\r\n"
    pieces.append(bytes(text))
    return pieces


# First words of an error line.  0-db has no codes, only sentences.
_AUTH = (
    b"NOAUTH",
    b"WRONGPASS",
    b"NOPERM",
    b"ERR invalid password",
    b"ERR AUTH",
    b"ERR Client sent AUTH",
    b"Access denied",
    b"Authentication disabled",
    b"Permission denied",
    b"Password too long",
    b"Namespace protected",
)
_READ_ONLY = (b"READONLY", b"Namespace is in read-only", b"Namespace is protected by worm")
_PASSING = (b"LOADING", b"BUSY ", b"TRYAGAIN", b"CLUSTERDOWN", b"MASTERDOWN", b"Cannot write", b"Internal")
_CLUSTER = (b"MOVED", b"ASK ", b"CROSSSLOT")


def answer_error(display: str, line: bytes, secrets: tuple[bytes, ...] = ()) -> StoreError:
    """The error for an error line of the store.  `secrets` are cut out: some servers echo arguments."""
    for secret in secrets:
        line = line.replace(secret, b"***")
    words = "".join(
        letter if letter.isprintable() else "?" for letter in line[:200].decode("utf-8", "replace")
    )
    message = f"{display}: {words}"
    if line.startswith(b"Authentication disabled"):
        return StoreAuthError(
            f"{message}: it has no admin password, so it takes none",
            hint="leave the user part out of the zdb:// URL; the password of a namespace follows a colon",
        )
    if line.startswith(_AUTH):
        return StoreAuthError(message)
    if line.startswith(_READ_ONLY):
        return StoreReadOnlyError(message)
    if line.startswith(_PASSING):
        return StoreUnreachableError(message)
    if line.startswith(_CLUSTER):
        return StoreError(
            f"{display}: it is one node of a Redis Cluster and does not hold every key",
            hint="name the cluster: redis-cluster://host:port, with one of its nodes or several",
        )
    return StoreError(message)
