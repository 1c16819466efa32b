"""Chooses the writer of a flist format by its name.

Role: the one place that commands ask.  Off the way of a read.
"""

from __future__ import annotations

from pathlib import Path

from zerofs.errors import UsageError
from zerofs.flist.model import FlistWriter

FORMATS = ("rocksdb", "sqlite", "fl")


def open_writer(format: str, destination: Path, *, workdir: Path | None = None) -> FlistWriter:
    """A writer of `destination`, which appears when it is finished; `format` is one of FORMATS.

    The database is built below `workdir`, by default the system's temporary directory.  Raises UsageError for
    another format, BackendError where `workdir` cannot be used.
    """
    if format == "rocksdb":
        from zerofs.flist.rocksdb import RocksdbWriter

        return RocksdbWriter(destination, workdir=workdir)
    if format == "sqlite":
        from zerofs.flist.sqlite import SqliteWriter

        return SqliteWriter(destination, workdir=workdir)
    if format == "fl":
        from zerofs.flist.fungiwriter import FungiWriter

        return FungiWriter(destination, workdir=workdir)
    raise UsageError(f"unknown flist format {format!r}", hint=f"one of {', '.join(FORMATS)}")
