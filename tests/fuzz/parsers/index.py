"""Mapped indexes whose checksums are right and whose numbers are anybody's: refused, or safe for all who read them.

An input is changes of a small sound index: the table, where, how many bytes, the bytes.  The engine runs in this
process, over the fake kernel; `tests.index.test_hostile` has one of its own for that.
"""

from __future__ import annotations

from functools import cache

from tests.fuzz.place import Pieces
from tests.index.exercise import exercise
from tests.index.trees import TreeReader, device, file, link
from zerofs.errors import FlistCorruptError
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import CHILD, CHUNK, NODE, Index, Tables
from zerofs.flist.model import CHUNK_SIZE, Kind

_ROWS = (NODE.size, CHILD.size, 1, 4, CHUNK.size)


@cache
def _sound() -> Tables:
    tree = {
        "bin": {"sh": file("shell", mode=0o4755), "ls": link("../bin/sh")},
        "big": file("big", size=CHUNK_SIZE * 2 + 5),
        "gone": None,
        "null": device(Kind.CHARDEV, 1, 3),
    }
    return compile_flist(TreeReader(tree))


def target(data: bytes) -> None:
    tables = Tables(*(bytearray(section) for section in _sound()))
    pieces = Pieces(data)
    while pieces:
        number = pieces.number(1) % len(tables)
        section, width = bytearray(tables[number]), _ROWS[number]
        at = pieces.number(1) * width + pieces.number(1) % width
        length = pieces.number(1) % 17
        if length == 16:  # the last row once more
            section += section[-width:]
        else:
            at = min(at, len(section))
            changed = pieces.take(length)[: len(section) - at]
            section[at : at + len(changed)] = changed
        tables = tables._replace(**{tables._fields[number]: section})
    try:
        index = Index.anonymous(tables)
    except FlistCorruptError as error:
        assert "\n" not in str(error)
        return
    exercise(index)


def samples() -> list[bytes]:
    def change(table: int, row: int, at: int, value: bytes) -> bytes:
        return bytes((table, row, at, len(value))) + value

    return [
        change(0, 1, 0, b"\xff" * 7),
        change(0, 2, 24, b"\1\0\0\0\0\0\0\0") + change(0, 2, 32, b"\2\0\0\0"),
        change(0, 4, 40, b"\0\0\0\0") + change(0, 4, 56, b"\0\x10\0\0"),
        change(0, 0, 8, b"\xff" * 8),
        change(1, 1, 4, b"\1\0\0\0"),
        change(3, 0, 0, b"\1\0\0\0"),
        change(4, 0, 64, b"\xff\x40"),
        change(2, 0, 0, b"../x"),
        change(4, 0, 68, b"\5\0\0\0"),
    ]
