"""The files of a golden flist and their chunk references, read without the package under test."""

from __future__ import annotations

import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).resolve().parents[2] / "zerofs" / "flist" / "flist.capnp"


def files(flist: Path) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
    """(path, [(id, key)]) of every regular file."""
    import capnp

    schema = capnp.load(str(SCHEMA))
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(flist) as archive:
            archive.extractall(directory, filter="data")
        for record in _records(Path(directory)):
            with schema.Dir.from_bytes(record) as folder:
                yield from _files_of(folder)


def _records(directory: Path) -> list[bytes]:
    """Directory records: their keys have 64 or 32 digits, owners have keys of other lengths."""
    database = directory / "flistdb.sqlite3"
    if database.exists():
        connection = sqlite3.connect(database)
        rows = connection.execute("SELECT value FROM entries WHERE length(key) = 32").fetchall()
        connection.close()
        return [value for (value,) in rows]
    import rocksdict

    raw = rocksdict.Options(raw_mode=True)
    opened = rocksdict.Rdict(str(directory), raw, access_type=rocksdict.AccessType.read_only())
    records = [value for key, value in opened.items() if len(key) == 64]
    opened.close()
    return records


def _files_of(folder: Any) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
    for inode in folder.contents:
        if inode.attributes.which() == "file":
            path = f"{folder.location}/{inode.name}".lstrip("/")
            yield path, [(block.hash, block.key) for block in inode.attributes.file.blocks]
