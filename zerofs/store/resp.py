"""RESP2 as far as stores speak it: commands out, answers in, nothing trusted.

hiredis puts answers together.  What it does not bound is checked on the raw bytes before it sees them: it
would allocate an array of any announced length, and gather a bulk of any announced length.  Only the
answers that the commands in use can have are let through: status, error, integer and bulk.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import hiredis

from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreProtocolError,
    StoreReadOnlyError,
    StoreUnreachableError,
)
from zerofs.store.base import MAX_PAYLOAD

MAX_LINE = 16 * 1024  # bytes of a status, an error or a length

STATUS, ERROR, INTEGER, BULK = b"+-:$"

_NOTHING = object()  # what hiredis says while an answer is incomplete


class Answer(NamedTuple):
    """One answer: `kind` is the byte that it began with."""

    kind: int
    value: bytes | int | None  # STATUS, ERROR, BULK: bytes, and None for a null bulk; INTEGER: int


class Answers:
    """Reassembles the answers of one connection.  Errors begin with `display`.

    `expected` counts the answers that are still to begin: a server that sends more is broken.
    """

    def __init__(self, display: str) -> None:
        self.expected = 0
        self._display = display
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._kinds: deque[int] = deque()  # of the answers that began and were not taken yet
        self._line = bytearray()  # a header that is cut off at the end of what was fed
        self._payload = 0  # bytes of the current bulk that are to come, its line end included

    def feed(self, data: memoryview) -> None:
        """Check and keep what was received.  Raises StoreProtocolError."""
        received = data.tobytes()
        self._check(received)
        try:
            self._reader.feed(received)
        except hiredis.HiredisError as fault:
            raise self._fault(str(fault)) from fault

    def take(self) -> Answer | None:
        """The next whole answer, or None while it is incomplete.  Raises StoreProtocolError."""
        if not self._kinds:
            return None
        try:
            value = self._reader.gets()
        except hiredis.HiredisError as fault:
            raise self._fault("malformed answer") from fault
        if value is _NOTHING:
            return None
        kind = self._kinds.popleft()
        return Answer(kind, _line(value) if kind == ERROR else value)

    @property
    def pending(self) -> bool:
        """Whether anything is under way: only a connection where nothing is can be used again."""
        return bool(self.expected or self._kinds or self._line or self._payload)

    def _check(self, data: bytes) -> None:
        """Walk over the headers in `data`; payloads are skipped, not looked at."""
        position, size = 0, len(data)
        while position < size:
            if self._payload:
                position += self._check_payload(data, position)
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._line += data[position:]
                self._check_start(self._line)
                return
            line = data[position : end + 1]
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            self._check_header(line)
            position = end + 1

    def _check_payload(self, data: bytes, position: int) -> int:
        """Skip what belongs to the current bulk; its length must be true, which its line end tells."""
        step = max(1, min(self._payload - 2, len(data) - position))
        if self._payload <= 2 and data[position] != b"\r\n"[2 - self._payload]:
            raise self._fault("a length does not fit its payload")
        self._payload -= step
        return step

    def _check_start(self, line: bytes | bytearray) -> None:
        if line[0] not in (STATUS, ERROR, INTEGER, BULK):
            raise self._fault("answer of a type that was not asked for")
        if len(line) > MAX_LINE:
            raise self._fault("endless line")

    def _check_header(self, line: bytes) -> None:
        self._check_start(line)
        if not line.endswith(b"\r\n"):
            raise self._fault("malformed line")
        if self.expected <= 0:
            raise self._fault("answer to no question")
        if line[0] in (BULK, INTEGER):
            digits = line[1:-2]
            if len(digits) > 20 or not digits.removeprefix(b"-").isdigit():
                raise self._fault("malformed number")
            if line[0] == BULK:
                self._check_length(int(digits))
        self.expected -= 1
        self._kinds.append(line[0])

    def _check_length(self, length: int) -> None:
        if length > MAX_PAYLOAD:
            raise self._fault(f"announces {length} bytes, more than any chunk has")
        if length < -1:
            raise self._fault("malformed length")
        self._payload = length + 2 if length >= 0 else 0

    def _fault(self, reason: str) -> StoreProtocolError:
        return StoreProtocolError(f"{self._display}: {reason}")


def _line(error: object) -> bytes:
    """The text of an error line, which hiredis hands out as an exception."""
    return str(error).encode("utf-8", "replace")


def encode(*arguments: bytes) -> list[bytes]:
    """A command as pieces to send; a large argument stays a piece of its own, uncopied."""
    pieces: list[bytes] = []
    text = bytearray(b"*%d\r\n" % len(arguments))
    for argument in arguments:
        text += b"$%d\r\n" % len(argument)
        if len(argument) > 4096:
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
            hint="redis-cluster:// is not supported; name a store that holds every chunk of its range",
        )
    return StoreError(message)
