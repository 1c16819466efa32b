"""The SQLite generation: records in a table of one SQLite file.

Role: reads and writes ``flistdb.sqlite3``; the records are those of :mod:`zerofs.flist.record`.  Off the
way of a read.  One thread at a time, no locks.
"""

from __future__ import annotations

from pathlib import Path

from zerofs.errors import FlistCorruptError
from zerofs.flist.archive import Member
from zerofs.flist.layout import SQLITE_NAME
from zerofs.flist.recordreader import RecordReader
from zerofs.flist.recordwriter import RecordWriter
from zerofs.flist.sqlitefile import building, connect, reporting, tables, writable

_SCHEMA = """
CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB);
CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT);
"""


class SqliteReader(RecordReader):
    """Reads the database file `path`, which nobody may be writing.

    `subject` is what messages call it.  Raises FlistCorruptError for a damaged file or a missing table.
    """

    format = "sqlite"
    key_size = 16

    def __init__(self, path: Path, *, subject: str | None = None) -> None:
        super().__init__(subject or str(path))
        self._connection = connect(path, self._subject)
        with reporting(self._subject):
            if "entries" not in tables(self._connection):
                self._connection.close()
                raise FlistCorruptError(f"{self._subject}: the database has no table named entries")

    def close(self) -> None:
        super().close()
        self._connection.close()

    def _value(self, key: bytes) -> bytes | None:
        with reporting(self._subject):
            row = self._connection.execute(
                "SELECT value FROM entries WHERE key = ?", (key.decode("utf-8", "replace"),)
            ).fetchone()
        if row is None:
            return None
        if not isinstance(row[0], bytes):
            raise FlistCorruptError(f"{self._subject}: the record {key!r} is no BLOB")
        return row[0]


class SqliteWriter(RecordWriter):
    """Writes a tar.gz that holds ``flistdb.sqlite3``.  A :class:`~zerofs.flist.model.FlistWriter`."""

    key_size = 16
    aclkey_size = 8
    full_mode = False

    def __init__(self, destination: Path, *, workdir: Path | None = None) -> None:
        super().__init__(destination, workdir=workdir)
        self._path = self._scratch.path / SQLITE_NAME
        self._connection = writable(self._path, _SCHEMA)

    def _put(self, key: bytes, record: bytes) -> None:
        with building(self._path):
            self._connection.execute("INSERT INTO entries VALUES (?, ?)", (key.decode(), record))

    def _close(self) -> list[Member]:
        with building(self._path):
            self._connection.execute("COMMIT")
            self._connection.close()
        return [Member(SQLITE_NAME, self._path)]

    def _discard(self) -> None:
        self._connection.close()
