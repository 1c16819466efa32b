"""The fungi generation: inodes, link targets, chunks and routes as rows of one SQLite file.

Role: reads and writes ``.fl`` files.  A directory is asked for by the decimal text of its inode number.  Off
the way of a read.  One thread at a time, no locks.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from zerofs.errors import FlistCorruptError
from zerofs.flist.model import CHUNK_SIZE, DIRECTORY_SIZE, Attributes, ChunkRef, Directory, Entry, Kind, Route
from zerofs.flist.owners import FALLBACK_ID, MAX_ID
from zerofs.flist.record import MAX_FILE_SIZE, UNKNOWN_KIND
from zerofs.flist.sqlitefile import connect, reporting, tables
from zerofs.flist.tally import Tally

logger = logging.getLogger(__name__)

BAD_OWNER = "owners that are no number of a user, shown as 1000"
NO_TARGET = "links without a target"
BAD_ROUTE = "routes that are no range of first bytes"

_INODE = "n.ino, n.name, n.size, n.uid, n.gid, n.mode, n.rdev, n.ctime, n.mtime"
_KINDS = {int(kind): kind for kind in Kind}
_TYPE = 0o170000  # the bits of a mode that are the type
_Row = tuple[int, object, int, int, int, int, int, int, int]


class FungiReader:
    """Reads the file `path`, which nobody may be writing.  A :class:`~zerofs.flist.model.FlistReader`.

    A column without an index costs one pass over its table at first; directories are then read with
    a query for the names, one for the targets and one for the chunks.  Raises FlistCorruptError.
    """

    format = "fl"

    def __init__(self, path: Path, *, subject: str | None = None) -> None:
        self._subject = subject or str(path)
        self._tally = Tally()
        self.names: dict[str, int] = {}
        self._connection = connect(path, self._subject)
        with reporting(self._subject):
            self._tables = tables(self._connection)
            if "inode" not in self._tables:
                self._connection.close()
                raise FlistCorruptError(f"{self._subject}: the database has no table named inode")
            self._children = self._by("inode", "parent")
            self._blocks = self._by("block", "ino") if "block" in self._tables else None

    def root(self) -> bytes:
        """The key of the root.  Raises FlistCorruptError where there is none."""
        with reporting(self._subject):
            rows = self._connection.execute(
                f"SELECT n.ino, n.name {self._children} = 0 ORDER BY n.rowid"
            ).fetchall()
        for ino, name in rows:
            if name == b"/" and isinstance(ino, int):
                return b"%d" % ino
        raise FlistCorruptError(f"{self._subject}: the record of the root directory is missing")

    def directory(self, key: bytes) -> Directory | None:
        ino = int(key)
        with reporting(self._subject):
            own = self._connection.execute(f"SELECT {_INODE} FROM inode n WHERE n.ino = ?", (ino,)).fetchone()
            if own is None or not stat.S_ISDIR(self._checked(own)[5]):
                return None
            chunks = self._chunks_below(ino)
            targets = self._targets_below(ino)
            rows = self._connection.execute(f"SELECT {_INODE} {self._children} = ? ORDER BY n.rowid", (ino,))
            entries = self._tally.admit(self._entries(rows, chunks, targets))
        return Directory(self._attributes(own), entries)

    def routes(self) -> Sequence[Route]:
        if "route" not in self._tables:
            return ()
        with reporting(self._subject):
            rows = self._connection.execute('SELECT start, "end", url FROM route ORDER BY rowid').fetchall()
        return tuple(self._routes(rows))

    def close(self) -> None:
        self._tally.report(logger, self._subject)
        self._connection.close()

    # -- rows → records --------------------------------------------------------------------

    def _entries(
        self, rows: sqlite3.Cursor, chunks: dict[int, list[ChunkRef]], targets: dict[int, bytes]
    ) -> Iterator[Entry]:
        left = sum(map(len, chunks.values()))  # each belongs to one file
        for row in rows:
            ino, raw, size, _, _, mode, rdev, _, _ = self._checked(row)
            name = raw if type(raw) is bytes else _bytes(raw)
            attributes = self._attributes(row)
            kind = _KINDS.get(mode & _TYPE)
            if kind is None:
                self._tally.add(UNKNOWN_KIND)
            elif kind is Kind.FILE:
                if not 0 <= size <= MAX_FILE_SIZE:
                    size = min(max(size, 0), MAX_FILE_SIZE)
                held = tuple(chunks.get(ino, ())[: -(-size // CHUNK_SIZE)])
                left -= len(held)
                if left < 0:  # inodes of one number, which would multiply what the file holds
                    raise FlistCorruptError(f"{self._subject}: inodes share their chunks")
                yield Entry(name, kind, attributes, size, b"", b"", (0, 0), CHUNK_SIZE, held)
            elif kind is Kind.DIR:
                yield Entry(name, kind, attributes, DIRECTORY_SIZE, key=b"%d" % ino)
            elif kind is Kind.LINK:
                if ino not in targets:
                    self._tally.add(NO_TARGET)
                target = targets.get(ino, b"")
                yield Entry(name, kind, attributes, len(target), target=target)
            elif kind is Kind.CHARDEV or kind is Kind.BLOCK:
                number = rdev & (2**64 - 1)
                yield Entry(name, kind, attributes, device=(os.major(number), os.minor(number)))
            else:
                yield Entry(name, kind, attributes)

    def _chunks_below(self, parent: int) -> dict[int, list[ChunkRef]]:
        chunks: dict[int, list[ChunkRef]] = {}
        if self._blocks is None:
            return chunks
        rows = self._connection.execute(
            f"SELECT n.ino, n.id, n.key {self._blocks} IN (SELECT n.ino {self._children} = ?)"
            " ORDER BY n.rowid",
            (parent,),
        )
        for ino, chunk_id, key in rows:
            if not type(chunk_id) is type(key) is bytes:
                chunk_id, key = _bytes(chunk_id), _bytes(key)
            chunks.setdefault(ino, []).append(ChunkRef(chunk_id, key))
        return chunks

    def _targets_below(self, parent: int) -> dict[int, bytes]:
        if "extra" not in self._tables:
            return {}
        rows = self._connection.execute(
            f"SELECT e.ino, e.data FROM extra e WHERE e.ino IN (SELECT n.ino {self._children} = ?)", (parent,)
        )
        return {ino: _bytes(data) for ino, data in rows}

    def _routes(self, rows: list[tuple[object, object, object]]) -> Iterator[Route]:
        for start, end, url in rows:
            if isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= 255:
                yield Route(start, end, _bytes(url).decode("utf-8", "replace"))
            else:
                self._tally.add(BAD_ROUTE)

    def _attributes(self, row: _Row) -> Attributes:
        _, _, _, uid, gid, mode, _, ctime, mtime = row
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            uid, gid = self._owner(uid), self._owner(gid)
        return Attributes(mode & 0o7777, uid, gid, mtime, ctime)

    def _owner(self, number: int) -> int:
        if 0 <= number <= MAX_ID:
            return number
        self._tally.add(BAD_OWNER)
        return FALLBACK_ID

    def _checked(self, row: _Row) -> _Row:
        """`row`, if its numbers are numbers: SQLite keeps any type in any column."""
        a, _, b, c, d, e, f, g, h = map(type, row)
        if a is b is c is d is e is f is g is h is int:  # this runs once an entry
            return row
        raise FlistCorruptError(f"{self._subject}: the inode {row[0]!r} has a field that is no number")

    # -- finding rows ----------------------------------------------------------------------

    def _by(self, table: str, column: str) -> str:
        """The middle of a SELECT of rows ``n`` of `table`, which ends in its `column`, indexed by now."""
        if self._is_indexed(table, column):
            return f"FROM {table} n WHERE n.{column}"
        self._connection.execute(
            f"CREATE TEMP TABLE {table}_by (value, row, PRIMARY KEY (value, row)) WITHOUT ROWID"
        )
        self._connection.execute(
            f"INSERT INTO temp.{table}_by SELECT {column}, rowid FROM main.{table} WHERE {column} IS NOT NULL"
        )
        return f"FROM temp.{table}_by b CROSS JOIN {table} n ON n.rowid = b.row WHERE b.value"

    def _is_indexed(self, table: str, column: str) -> bool:
        rows = self._connection.execute(
            "SELECT i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i"
            " WHERE i.seqno = 0 AND l.partial = 0",
            (table,),
        )
        return any(name == column.encode() for (name,) in rows)


def _bytes(value: object) -> bytes:
    """A BLOB or TEXT as the bytes it is; anything else as SQLite would print it."""
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode()
