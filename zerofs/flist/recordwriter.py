"""What writing the RocksDB and SQLite generations has in common: records, ACIs and the archive.

Role: directories of the model become records under keys made from their paths; a subclass stores
them.  Off the way of a read.  One thread at a time, no locks.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from zerofs.flist.archive import Member, replacing, write_archive
from zerofs.flist.model import Attributes, Directory, Kind, Route
from zerofs.flist.record import Aci, encode_aci, encode_directory
from zerofs.flist.recordreader import directory_key
from zerofs.flist.scratch import Scratch
from zerofs.flist.tally import Tally

logger = logging.getLogger(__name__)

ROUTES_LOST = "routes that stand in no table of this format; give them as router.yaml"


class RecordWriter(ABC):
    """A :class:`~zerofs.flist.model.FlistWriter` of a tar.gz; the database is built below `workdir`."""

    key_size: int  # bytes of the BLAKE2b that names a directory
    aclkey_size: int  # bytes of the BLAKE2b that names an ACI
    full_mode: bool  # whether an ACI's mode holds the type as well

    def __init__(self, destination: Path, *, workdir: Path | None = None) -> None:
        self._destination = destination
        self._scratch = Scratch(workdir or Path(tempfile.gettempdir()))
        self._tally = Tally()
        self._acis: dict[tuple[int, int, int], bytes] = {}
        self._has_root = False

    def add(self, path: bytes, directory: Directory) -> None:
        self._has_root |= not path
        record = encode_directory(path, directory, self._key, self._aclkey, self._tally)
        self._put(self._key(path), record)

    def finish(self, router: bytes | None = None, routes: Iterable[Route] = ()) -> None:
        if not self._has_root:
            raise ValueError("a flist needs its root directory")
        for _ in routes:
            self._tally.add(ROUTES_LOST)
        try:
            members = self._close()
            with replacing(self._destination) as out:
                write_archive(out, members, router)
        finally:
            self._scratch.close()
        self._tally.report(logger, str(self._destination))

    def abort(self) -> None:
        try:
            self._discard()
        finally:
            self._scratch.close()

    @abstractmethod
    def _put(self, key: bytes, record: bytes) -> None: ...

    @abstractmethod
    def _close(self) -> list[Member]:
        """Close the database; returns the files that make it up."""

    @abstractmethod
    def _discard(self) -> None:
        """Close the database, however it is."""

    def _key(self, path: bytes) -> bytes:
        return directory_key(path, self.key_size)

    def _aclkey(self, kind: Kind, attributes: Attributes) -> bytes:
        mode = attributes.mode | kind if self.full_mode else attributes.mode
        identity = (mode, attributes.uid, attributes.gid)
        key = self._acis.get(identity)
        if key is None:
            key = self._acis[identity] = self._put_aci(*identity)
        return key

    def _put_aci(self, mode: int, uid: int, gid: int) -> bytes:
        """Names are the numbers in decimal: they mean the same on every host, to old readers as well."""
        aci = Aci(b"%d" % uid, b"%d" % gid, mode, uid, gid)
        text = b"user:%d\ngroup:%d\nmode:%d\n" % (uid, gid, mode)
        key = hashlib.blake2b(text, digest_size=self.aclkey_size).hexdigest().encode()
        self._put(key, encode_aci(aci))
        return key
