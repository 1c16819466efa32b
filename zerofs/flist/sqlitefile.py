"""Opens a SQLite file that came from outside, without writing beside it and without trusting its schema.

Role: what the SQLite and the fungi generations share.  The file is opened immutable: no lock, no
journal, no shared memory appears next to it.  Views, virtual tables and generated columns could make a
plain SELECT run for ever; only tables are read.  Connections may move between threads, one at a time.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from zerofs.errors import BackendError, FlistCorruptError, FlistFormatError
from zerofs.flist.layout import Generation
from zerofs.flist.record import MAX_RECORD

_PROGRESS = 20_000  # instructions of SQLite's machine between looks at the budget
_FREE, _PER_BYTE = 2_000_000, 100  # instructions; reading a whole file takes about one for two bytes


@contextmanager
def reporting(subject: str) -> Iterator[None]:
    """Turn SQLite's errors into FlistCorruptError that names `subject`."""
    try:
        yield
    except sqlite3.Error as error:
        raise FlistCorruptError(f"{subject}: the database is damaged: {error}") from error


@contextmanager
def building(path: Path) -> Iterator[None]:
    """Turn SQLite's errors while `path` is written into BackendError: the disk is full, or fails."""
    try:
        yield
    except sqlite3.Error as error:
        raise BackendError(f"cannot build the flist in {path}: {error}") from error


def connect(path: Path, subject: str) -> sqlite3.Connection:
    """Open `path` for reading; text comes back as bytes.  Raises FlistCorruptError, naming `subject`."""
    with reporting(subject):
        uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_RECORD)
            connection.text_factory = bytes
            connection.set_progress_handler(_Budget(path.stat().st_size), _PROGRESS)
            for pragma in ("trusted_schema = 0", "cell_size_check = 1"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection


class _Budget:
    """Stops a query when the file cannot hold what it finds: pages may be linked so that a walk never ends."""

    def __init__(self, size: int) -> None:
        self._left = _FREE + size * _PER_BYTE

    def __call__(self) -> bool:
        self._left -= _PROGRESS
        return self._left < 0


def tables(connection: sqlite3.Connection) -> set[str]:
    """The names of its real tables."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    names = {name.decode("utf-8", "replace").lower() for name, sql in rows if not _is_virtual(sql)}
    return {name for name in names if not _has_generated_columns(connection, name)}


def generation_of_file(path: Path, subject: str) -> Generation:
    """Fungi by its table of inodes, else the SQLite generation by its table of entries.

    Raises FlistFormatError, naming `subject`, for any other database.
    """
    with closing(connect(path, subject)) as connection, reporting(subject):
        present = tables(connection)
    if "inode" in present:
        return Generation.FUNGI
    if "entries" in present:
        return Generation.SQLITE
    raise FlistFormatError(f"{subject} is a SQLite database, but not of a flist")


def settle(path: Path, subject: str) -> None:
    """Bring what is pending into the file itself, which must be a private copy."""
    with reporting(subject), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA trusted_schema = 0")
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()


def _is_virtual(sql: bytes | None) -> bool:
    return sql is not None and b"VIRTUAL" in sql[:64].upper()


def _has_generated_columns(connection: sqlite3.Connection, table: str) -> bool:
    rows = connection.execute("SELECT hidden FROM pragma_table_xinfo(?)", (table,))
    return any(hidden for (hidden,) in rows)


def writable(path: Path, schema: str) -> sqlite3.Connection:
    """A new database at `path`, a private file, with `schema`; one transaction is open until COMMIT."""
    with building(path):
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        connection.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN; {schema}")
    return connection
