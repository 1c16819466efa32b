"""A directory as a store: ``ab/abcdef…``, or flat ``abcdef…``, the name being the id's text.

A chunk is written to a temporary name beside its place and renamed, so it is there whole or not at
all.  It is not synced one by one: a crash of the host may leave an empty file, which counts as missing and is
written again; any other damage is found when the chunk is verified.  Thread-safe without locks.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from zerofs.errors import StoreError, StoreReadOnlyError, StoreRefusedError, StoreTimeoutError
from zerofs.store.base import MAX_PAYLOAD, Payload, gather
from zerofs.store.ids import id_text
from zerofs.store.url import StoreUrl

_MAX_NAME = 255  # bytes of a file name


class DirectoryStore:
    """A store behind a ``dir://`` URL.  Made when the first chunk is put."""

    def __init__(self, url: StoreUrl) -> None:
        self.display = url.display
        self._root = Path(os.fsdecode(url.path))

    def get_many(self, ids: Sequence[bytes], deadline: float) -> Iterator[bytes | None]:
        for chunk_id in ids:
            self._in_time(deadline)
            yield self._read(chunk_id)

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[list[Payload | None]]:
        return gather((payload, lambda: True) for payload in self.get_many(ids, deadline))

    def is_patient(self) -> bool:
        return False

    def exists_many(self, ids: Sequence[bytes], deadline: float) -> list[bool]:
        found = []
        for chunk_id in ids:
            self._in_time(deadline)
            found.append(self._size(chunk_id) > 0)
        return found

    def put_many(self, items: Sequence[tuple[bytes, Payload]], deadline: float) -> None:
        for chunk_id, payload in items:
            self._in_time(deadline)
            self._write(chunk_id, payload)

    def close(self) -> None:
        """Nothing is kept open."""

    def _places(self, chunk_id: bytes) -> tuple[Path, Path]:
        name = id_text(chunk_id)
        if not name or len(name) > _MAX_NAME:
            raise StoreError(f"{self.display}: an id of {len(chunk_id)} bytes names no file")
        return self._root / name[:2] / name, self._root / name

    def _read(self, chunk_id: bytes) -> bytes | None:
        for place in self._places(chunk_id):
            try:
                # A FIFO in the place of a chunk must not be waited for.
                descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as fault:
                raise self._failed(fault) from fault
            try:
                payload = self._read_file(descriptor)
            finally:
                os.close(descriptor)
            if payload:
                return payload
        self._root_exists()
        return None

    def _read_file(self, descriptor: int) -> bytes | None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > MAX_PAYLOAD:
            raise StoreError(f"{self.display}: a file of {status.st_size} bytes, more than any chunk has")
        pieces = []
        left = status.st_size
        try:
            while left and (piece := os.read(descriptor, left)):
                pieces.append(piece)
                left -= len(piece)
        except OSError as fault:
            raise self._failed(fault) from fault
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _size(self, chunk_id: bytes) -> int:
        """Bytes of the chunk's file, 0 where there is none."""
        for place in self._places(chunk_id):
            try:
                status = place.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as fault:
                raise self._failed(fault) from fault
            if stat.S_ISREG(status.st_mode) and status.st_size:
                return status.st_size
        return 0

    def _write(self, chunk_id: bytes, payload: Payload) -> None:
        place, _ = self._places(chunk_id)
        temporary = place.parent / f".{os.getpid()}-{os.urandom(8).hex()}.tmp"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(payload)
                temporary.replace(place)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except PermissionError as fault:
            raise StoreReadOnlyError(
                str(self._failed(fault)), hint="choose a directory that you may write"
            ) from fault
        except OSError as fault:
            raise self._failed(fault) from fault

    def _root_exists(self) -> None:
        if not self._root.is_dir():
            raise StoreRefusedError(f"{self.display}: no such directory")

    def _in_time(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise StoreTimeoutError(f"{self.display}: no time left")

    def _failed(self, fault: OSError) -> StoreError:
        return StoreError(f"{self.display}: {fault.strerror or fault}")
