"""The database ``order``: which entry goes first.

A row is an 8-byte big-endian sequence number and, as its value, the 4-byte big-endian length of the entry's
plain bytes and its name.  Rows are only ever added at the end.  When a row's turn comes, its entry may be
gone, or have another row further on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lmdb

from zerofs.cache.clock import Row
from zerofs.cache.datafile import Mapped


def rows(transaction: lmdb.Transaction[Any], mapped: Mapped) -> Iterator[Row]:
    """The order, what goes first at its head."""
    with transaction.cursor(mapped.order) as cursor:
        for key, value in cursor:
            yield Row(int.from_bytes(key, "big"), bytes(value[4:]), int.from_bytes(value[:4], "big"))


def last_sequence(transaction: lmdb.Transaction[Any], mapped: Mapped) -> int:
    """The number of the last row, 0 where there is none."""
    with transaction.cursor(mapped.order) as cursor:
        return int.from_bytes(cursor.key(), "big") if cursor.last() else 0


def key_of(sequence: int) -> bytes:
    """A row's key."""
    return sequence.to_bytes(8, "big")


def value_of(name: bytes, length: int) -> bytes:
    """A row's value; `length` is that of the entry's plain bytes."""
    return length.to_bytes(4, "big") + name
