"""What reading the RocksDB and SQLite generations has in common: records under text keys.

Role: a database of bytes becomes directories of the model; ACIs are read once each.  Off the way of a
read.  One thread, no locks.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from zerofs.errors import FlistCorruptError
from zerofs.flist.model import Directory, Route
from zerofs.flist.owners import FALLBACK_ID, Owners
from zerofs.flist.record import decode_aci, decode_directory
from zerofs.flist.tally import Tally

logger = logging.getLogger(__name__)

_DEFAULT_OWNER = (0o400, FALLBACK_ID, FALLBACK_ID)  # mode, uid, gid where no ACI is found


def directory_key(path: bytes, digest_size: int) -> bytes:
    """The key of the directory at `path` (relative, no outer slashes): lower-case hex of its BLAKE2b."""
    return hashlib.blake2b(path, digest_size=digest_size).hexdigest().encode()


class RecordReader(ABC):
    """A :class:`~zerofs.flist.model.FlistReader` over records that a subclass finds by key."""

    format: str
    key_size: int  # bytes of the BLAKE2b that names a directory

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._owners = Owners()
        self._tally = Tally()
        self._acis: dict[bytes, tuple[int, int, int]] = {}
        self.names = self._owners.names

    @abstractmethod
    def _value(self, key: bytes) -> bytes | None:
        """The record under `key`; raises FlistCorruptError where the database is damaged."""

    def root(self) -> bytes:
        """The key of the root directory.  Raises FlistCorruptError where its record is missing."""
        key = directory_key(b"", self.key_size)
        if self._value(key) is None:
            raise FlistCorruptError(f"{self._subject}: the record of the root directory is missing")
        return key

    def directory(self, key: bytes) -> Directory | None:
        record = self._value(key)
        return None if record is None else decode_directory(record, self._owner, self._tally)

    def routes(self) -> Sequence[Route]:
        return ()

    def close(self) -> None:
        self._tally.report(logger, self._subject)

    def _owner(self, aclkey: bytes) -> tuple[int, int, int]:
        """(mode, uid, gid) of an ACI."""
        owner = self._acis.get(aclkey)
        if owner is None:
            owner = self._acis[aclkey] = self._read_owner(aclkey)
        return owner

    def _read_owner(self, aclkey: bytes) -> tuple[int, int, int]:
        record = self._value(aclkey) if aclkey else None
        if record is None:
            return _DEFAULT_OWNER
        aci = decode_aci(record)
        uid, gid = self._owners.user(aci.uid, aci.uname), self._owners.group(aci.gid, aci.gname)
        return aci.mode & 0o7777, uid, gid
