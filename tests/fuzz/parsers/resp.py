"""Answers of a store: an error, or answers that stand there byte for byte, in memory that grows as bytes arrive."""

from __future__ import annotations

from tests.store.test_resp import wire
from zerofs.errors import StoreError, StoreProtocolError
from zerofs.store._resp import Answers, encode
from zerofs.store.resp import ARRAY, ERROR, Answer, answer_error

MOST_ROOM = 2 << 20  # bytes given for a payload before the first of them came


def target(data: bytes) -> None:
    first, data = data[:1].ljust(1, b"\0")[0], data[1:]
    parser = Answers("redis://host")
    parser.nested, parser.expected = bool(first & 1), first >> 1
    step = 1 + first % 97
    taken: list[Answer] = []
    left = data
    try:
        while left:
            room = parser.room()
            assert 0 < len(room) <= max(MOST_ROOM, 2 * len(data))
            size = min(len(room), step, len(left))
            room[:size] = left[:size]
            del room
            parser.received(size)
            left = left[size:]
            while answers := parser.take():
                taken += answers
                for answer in answers:
                    if answer.kind == ERROR:
                        assert isinstance(answer.value, bytes)
                        _check_error(answer.value)
    except StoreProtocolError as error:
        assert "\n" not in str(error)
    _check(taken, data)


def _check(taken: list[Answer], data: bytes) -> None:
    at = 0
    for answer in taken:
        if answer.kind == ARRAY:
            at = data.index(b"\n", at) + 1
            continue
        payload = wire(answer) if not isinstance(answer.value, int) else b""
        if isinstance(answer.value, bytearray | bytes) and answer.kind == ord("$"):
            assert data.find(bytes(answer.value), at) >= 0
        at += len(payload) and 1
    assert len(taken) <= len(data)


def _check_error(line: bytes) -> None:
    error = answer_error("redis://host", line, (b"secret",))
    assert isinstance(error, StoreError)
    assert b"secret" not in str(error).encode() and str(error).isprintable()


def samples() -> list[bytes]:
    ten = b"\x14"
    return [
        ten + b"+OK\r\n-ERR no\r\n:-12\r\n$5\r\nhello\r\n$-1\r\n$0\r\n\r\n",
        b"\x15*2\r\n$3\r\nfoo\r\n*1\r\n:5\r\n",
        ten + b"$6000\r\n" + b"x" * 6000 + b"\r\n+OK\r\n",
        ten + b"-MOVED 3999 127.0.0.1:6381\r\n-NOAUTH secret\r\n-ASK 1 a:1\r\n",
        ten + b"".join(bytes(piece) for piece in encode(iter([(b"SET", b"key", b"value")]), 1, 100)[0]),
    ]
