"""The RocksDB generation: records in a RocksDB directory.

Role: reads and writes the database; the records are those of :mod:`zerofs.flist.record`.  Off the way of a
read.  One thread at a time; RocksDB's own threads stay idle on a database opened for reading.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.errors import BackendError, FlistCorruptError, FlistTooLargeError
from zerofs.flist.archive import Member
from zerofs.flist.layout import ROUTER_NAME, database_files, is_immutable_table
from zerofs.flist.recordreader import RecordReader
from zerofs.flist.recordwriter import RecordWriter

if TYPE_CHECKING:
    from rocksdict import Options

logger = logging.getLogger(__name__)

_TABLE_FORMAT = 4
_WRITE_BUFFER = 64 << 20  # bytes before a table is written


class RocksdbReader(RecordReader):
    """Reads the database in `directory`, which must be private: RocksDB leaves files of its own there.

    The write-ahead log is replayed into memory.  `subject` is what messages call the flist.  Raises
    FlistCorruptError for a database that does not open.
    """

    format = "rocksdb"
    key_size = 32

    def __init__(self, directory: Path, *, subject: str | None = None) -> None:
        from rocksdict import AccessType, Rdict

        super().__init__(subject or str(directory))
        try:
            self._database = Rdict(
                str(directory), _reading_options(directory), access_type=AccessType.read_only(False)
            )
        except Exception as error:  # rocksdict has no class of its own
            raise FlistCorruptError(
                f"{self._subject}: the database does not open: {_one_line(error)}"
            ) from error

    def close(self) -> None:
        super().close()
        self._database.close()

    def _value(self, key: bytes) -> bytes | None:
        try:
            value = self._database.get(key)
        except Exception as error:
            raise FlistCorruptError(
                f"{self._subject}: the database is damaged: {_one_line(error)}"
            ) from error
        return None if value is None else bytes(value)


class RocksdbWriter(RecordWriter):
    """Writes a tar.gz of a RocksDB database that old releases can read.

    A :class:`~zerofs.flist.model.FlistWriter`.  The bytes differ each time: RocksDB puts an identity of its
    own into every table.
    """

    key_size = 32
    aclkey_size = 16
    full_mode = True

    def __init__(self, destination: Path, *, workdir: Path | None = None) -> None:
        from rocksdict import Rdict, WriteOptions

        super().__init__(destination, workdir=workdir)
        self._database = Rdict(str(self._scratch.path), _writing_options())
        self._write_options = WriteOptions()
        # flushed as a whole or thrown away; a property, whatever the stub says
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment]

    def _put(self, key: bytes, record: bytes) -> None:
        with self._building():
            self._database.put(key, record, self._write_options)

    def _close(self) -> list[Member]:
        with self._building():
            self._database.flush()
            self._database.close()
        return [Member(path.name, path) for path in database_files(self._scratch.path)]

    def _discard(self) -> None:
        try:
            self._database.close()
        except Exception:  # closed already, or it cannot flush what nobody wants any more
            logger.debug("%s: the database did not close", self._destination, exc_info=True)

    @contextmanager
    def _building(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise BackendError(
                f"cannot build the flist in {self._scratch.path}: {_one_line(error)}"
            ) from error


def private_view(directory: Path, view: Path, *, subject: str, max_size: int) -> None:
    """Make `view` a database that RocksDB may write to, with the records of the one in `directory`.

    Tables are linked, being never written again; what RocksDB may append to or replace is copied.
    Raises FlistTooLargeError where that is more than `max_size` bytes.
    """
    copied = 0
    for path in database_files(directory):
        if path.name == ROUTER_NAME:
            continue
        if is_immutable_table(path.name):
            (view / path.name).symlink_to(path.resolve())
            continue
        copied += path.stat().st_size
        if copied > max_size:
            raise FlistTooLargeError(f"{subject}: its log is over {max_size} bytes")
        shutil.copyfile(path, view / path.name)


def _reading_options(directory: Path) -> Options:
    from rocksdict import Options

    options = Options(raw_mode=True)
    options.set_max_open_files(64)
    options.set_wal_dir(str(directory))
    return options


def _writing_options() -> Options:
    """Tables that RocksDB 5 reads: format version 4, CRC32c, snappy; written once, never compacted."""
    from rocksdict import BlockBasedOptions, ChecksumType, DBCompressionType, Options

    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.snappy())
    options.set_disable_auto_compactions(True)
    options.set_write_buffer_size(_WRITE_BUFFER)
    tables = BlockBasedOptions()
    tables.set_format_version(_TABLE_FORMAT)
    tables.set_checksum_type(ChecksumType.crc32c())
    options.set_block_based_table_factory(tables)
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
