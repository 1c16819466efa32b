"""RESP2 as far as stores speak it: what an answer is, how long it may be, and what its error means.

Place: below `connection`, beside `_resp`, which knows the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreReadOnlyError,
    StoreUnreachableError,
)
from zerofs.store.base import Payload

MAX_LINE = 16 * 1024  # bytes of a status, an error or a length
MAX_DIGITS = 20  # of a number, its sign included
MAX_ARRAY = 65536  # elements

STATUS, ERROR, INTEGER, BULK, ARRAY = b"+-:$*"


class Answer(NamedTuple):
    """One answer: `kind` is the byte that it began with."""

    kind: int
    value: Payload | int | None  # STATUS, ERROR: bytes; BULK: a payload, None for null; INTEGER, ARRAY: int


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
