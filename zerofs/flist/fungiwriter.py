"""Writes the fungi generation: one SQLite file with its inodes in the order in which they were added.

Role: the counterpart of :mod:`zerofs.flist.fungi`.  Off the way of a read.  One thread at a time, no locks.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from zerofs.flist.archive import replacing
from zerofs.flist.model import CHUNK_SIZE, DIRECTORY_SIZE, Attributes, Directory, Entry, Kind, Route
from zerofs.flist.scratch import Scratch
from zerofs.flist.sqlitefile import building, writable
from zerofs.flist.tally import Tally

logger = logging.getLogger(__name__)

NO_ROUTER = "router.yaml, which a .fl file has no room for; give its destinations as routes"

_SCHEMA = """
CREATE TABLE inode (ino INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name VARCHAR(255), size INTEGER,
    uid INTEGER, gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
CREATE INDEX parents ON inode (parent);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE INDEX block_ino ON block (ino);
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, "end" INTEGER, url VARCHAR(2048));
"""
# a name is text for other readers and keeps its bytes, UTF-8 or not, for ours
_ADD_INODE = (
    "INSERT INTO inode (parent, name, size, uid, gid, mode, rdev, ctime, mtime)"
    " VALUES (?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?)"
)
_SET_ATTRIBUTES = "UPDATE inode SET uid = ?, gid = ?, mode = ?, ctime = ?, mtime = ? WHERE ino = ?"


class FungiWriter:
    """A :class:`~zerofs.flist.model.FlistWriter` of a ``.fl`` file, built below `workdir`."""

    def __init__(self, destination: Path, *, workdir: Path | None = None) -> None:
        self._destination = destination
        self._scratch = Scratch(workdir or Path(tempfile.gettempdir()))
        self._tally = Tally()
        self._path = self._scratch.path / "flist.fl"
        self._connection = writable(self._path, _SCHEMA)
        self._directories: dict[bytes, int] = {}  # those that were named and not yet added: path → ino
        self._has_root = False

    def add(self, path: bytes, directory: Directory) -> None:
        with building(self._path):
            self._add(path, directory)

    def finish(self, router: bytes | None = None, routes: Iterable[Route] = ()) -> None:
        if not self._has_root:
            raise ValueError("a flist needs its root directory")
        if router is not None:
            self._tally.add(NO_ROUTER)
        try:
            with building(self._path):
                self._connection.executemany("INSERT INTO route VALUES (?, ?, ?)", routes)
                self._connection.execute("INSERT INTO tag VALUES ('block-size', ?)", (str(CHUNK_SIZE),))
                self._connection.execute("COMMIT")
                self._connection.close()
            with replacing(self._destination) as out, self._path.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
        finally:
            self._scratch.close()
        self._tally.report(logger, str(self._destination))

    def abort(self) -> None:
        self._connection.close()
        self._scratch.close()

    def _add(self, path: bytes, directory: Directory) -> None:
        if not path:
            self._has_root = True
            root = Entry(b"/", Kind.DIR, directory.attributes, DIRECTORY_SIZE)
            ino = self._add_inode(0, root)
        else:
            ino = self._directories.pop(path)
            uid, gid, mode, ctime, mtime = _columns(Kind.DIR, directory.attributes)
            self._connection.execute(_SET_ATTRIBUTES, (uid, gid, mode, ctime, mtime, ino))
        for entry in directory.entries:
            child = self._add_inode(ino, entry)
            if entry.kind == Kind.DIR:
                self._directories[path + b"/" + entry.name if path else entry.name] = child

    def _add_inode(self, parent: int, entry: Entry) -> int:
        uid, gid, mode, ctime, mtime = _columns(entry.kind, entry.attributes)
        size = len(entry.target) if entry.kind == Kind.LINK else entry.size
        rdev = os.makedev(*entry.device)
        row = (parent, entry.name, size, uid, gid, mode, rdev, ctime, mtime)
        ino = self._connection.execute(_ADD_INODE, row).lastrowid
        assert ino is not None  # an INSERT has one
        if entry.kind == Kind.LINK:
            self._connection.execute("INSERT INTO extra VALUES (?, ?)", (ino, entry.target))
        if entry.chunks:
            rows = ((ino, chunk.id, chunk.key) for chunk in entry.chunks)
            self._connection.executemany("INSERT INTO block VALUES (?, ?, ?)", rows)
        return ino


def _columns(kind: Kind, attributes: Attributes) -> tuple[int, int, int, int, int]:
    return attributes.uid, attributes.gid, attributes.mode | kind, attributes.ctime, attributes.mtime
