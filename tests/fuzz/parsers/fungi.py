"""The rows of a fungi file: any value in any column is an error or a tree that can be mounted."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.fuzz.parsers import sqlite
from tests.fuzz.place import Pieces, fresh_directory

_SCHEMA = """
CREATE TABLE inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime);
CREATE TABLE extra (ino, data);
CREATE TABLE block (ino, id, key);
CREATE TABLE tag (key, value);
CREATE TABLE route (start, "end", url);
"""
_COLUMNS = {"inode": 10, "extra": 2, "block": 3, "tag": 2, "route": 3}
_NUMBERS = (
    0,
    1,
    2,
    3,
    -1,
    4096,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    -(2**63),
    0o40755,
    0o100644,
    0o120777,
    0o020644,
)
_NAMES = (b"/", b"", b".", b"..", b"a", b"b", b"a/b", b"a\0b", b"\xff", b"x" * 256, b"k" * 32, b"k" * 5000)


def target(data: bytes) -> None:
    pieces = Pieces(data)
    with (
        fresh_directory() as place,
        closing(sqlite3.connect(place / "flist", isolation_level=None)) as database,
    ):
        database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN; {_SCHEMA}")
        if pieces.number(1) % 4:
            database.execute("INSERT INTO inode VALUES (1, 0, '/', 0, 0, 0, ?, 0, 0, 0)", (0o40755,))
        for _ in range(200):
            if not pieces:
                break
            table = list(_COLUMNS)[pieces.number(1) % len(_COLUMNS)]
            values = [_value(pieces) for _ in range(_COLUMNS[table])]
            marks = ", ".join("?" * len(values))
            database.execute(f"INSERT INTO {table} VALUES ({marks})", values)
        database.execute("COMMIT")
        sqlite.mount(place / "flist", place / "work")


def _value(pieces: Pieces) -> object:
    kind = pieces.number(1)
    if kind < 128:
        return _NUMBERS[kind % len(_NUMBERS)]
    if kind < 192:
        return _NAMES[kind % len(_NAMES)]
    if kind < 208:
        return _NAMES[kind % len(_NAMES)].decode("latin-1")
    if kind < 220:
        return int.from_bytes(pieces.take(8), "little", signed=True)
    if kind < 240:
        return pieces.take(kind % 40)
    return (None, 1.5, float("inf"), "text")[kind % 4]


def samples() -> list[bytes]:
    def row(table: int, *values: int) -> bytes:
        return bytes((table, *values))

    directory, file, link, name, other = 11, 12, 13, 132, 133
    tree = b"\1" + b"".join(
        (
            row(0, 2, 1, name + 4 * 3 - 4, 0, 0, 0, directory, 0, 0, 0),
            row(0, 3, 1, other, 5, 0, 0, file, 0, 0, 0),
            row(0, 2, 2, other, 0, 0, 0, link, 0, 0, 0),
            row(1, 2, name),
            row(2, 3, 142, 142),
            row(4, 0, 1, name),
        )
    )
    return [tree, b"\0" + tree[1:], bytes(range(256))]
