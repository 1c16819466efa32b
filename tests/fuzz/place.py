"""A directory of its own for each input that a parser wants on the disk, and pieces of an input."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

_numbers = count()


@cache
def _base() -> Path:
    path = Path(
        tempfile.mkdtemp(prefix="zerofs-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    )
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@contextmanager
def fresh_directory() -> Iterator[Path]:
    """Empty, and gone afterwards."""
    path = _base() / str(next(_numbers))
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Pieces:
    """Takes an input apart; zeros follow its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether something is left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece.ljust(size, b"\0")

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def rest(self) -> bytes:
        piece, self._at = self._data[self._at :], len(self._data)
        return piece
