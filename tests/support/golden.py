"""The golden flists: real ones with their chunks, and the listing that a mount of each must show."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

NAMES = ("small-rocksdb", "small-sqlite")
_CHECKOUT = Path(__file__).parents[2]


def golden_directory() -> Path:
    """``$ZEROFS_GOLDEN``, or ``../shared/golden`` beside the checkout; skips where it is not there."""
    directory = Path(os.environ.get("ZEROFS_GOLDEN", _CHECKOUT.parent / "shared" / "golden"))
    if not (directory / f"{NAMES[0]}.flist").is_file():
        pytest.skip("the golden flists are not here: set ZEROFS_GOLDEN to their directory")
    return directory


class Golden:
    """One of the golden flists by its name."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.flist = directory / f"{name}.flist"
        self._chunks = directory / f"{name}.chunks.tar"
        self._manifest = directory / f"{name}.manifest.jsonl"

    def manifest(self) -> list[str]:
        """The lines that a mount must show."""
        return self._manifest.read_text().splitlines()

    def chunks(self) -> Iterator[tuple[bytes, bytes]]:
        """(id as a store is asked for it, payload as it is stored) of every chunk."""
        binary = self.name == "small-sqlite"  # its archive names members by the hex of their ids
        with tarfile.open(self._chunks) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    continue
                name = Path(member.name).name
                yield (bytes.fromhex(name) if binary else name.encode(), content.read())


def chunk_file(directory: Path, id: bytes) -> Path:
    """Where a ``dir`` store holds a chunk: ``ab/abcdef…``, a text id as it stands, a binary one in hex."""
    text = all(byte in b"0123456789abcdefABCDEF" for byte in id) and len(id) >= 64
    name = id.decode() if text else id.hex()
    return directory / name[:2] / name


def load_directory(directory: Path, chunks: Iterable[tuple[bytes, bytes]]) -> int:
    """Fill a ``dir`` store with (id, payload) pairs; returns how many."""
    count = 0
    for id, payload in chunks:
        path = chunk_file(directory, id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
        count += 1
    return count
