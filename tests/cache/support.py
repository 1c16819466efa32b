"""Chunks whose bytes follow from their number, so that any process can tell what belongs where, and damage."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from zerofs.cache.lmdb import ChunkCache

SIZE = 16 << 20
LARGE = 512 * 1024
ROOT = Path(__file__).resolve().parents[2]


def chunk(number: int, size: int) -> tuple[bytes, bytes]:
    """(name, plain bytes) of chunk `number`."""
    seed = number.to_bytes(4, "big")
    name = b"\x02" + hashlib.blake2b(seed, digest_size=16).digest()
    return name, (hashlib.sha512(seed).digest() * (size // 64 + 1))[:size]


def chunks(count: int, size: int) -> list[tuple[bytes, bytes]]:
    return [chunk(number, size) for number in range(count)]


def name(number: int) -> bytes:
    """That of chunk `number`."""
    return chunk(number, 0)[0]


def there(cache: ChunkCache, count: int) -> set[int]:
    """Which of the first `count` chunks the cache holds."""
    return {number for number, held in enumerate(cache.has_many([name(n) for n in range(count)])) if held}


def pin_all_of(cache: ChunkCache, names: set[bytes]) -> None:
    """Let these names, and no others, be pinned."""
    cache._environment.pins.is_pinned = lambda: names.__contains__  # type: ignore[method-assign]


def contents(cache: ChunkCache, count: int) -> list[tuple[bytes, bytes]]:
    """What the cache holds of the first `count` chunks."""
    with cache.snapshot() as snapshot:
        found = [(name, snapshot.find(name)) for name, _ in chunks(count, 0)]
        return [(name, bytes(view)) for name, view in found if view is not None]


def bad_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("data.mdb.bad-*"))


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `program` and talks through its pipes."""
    preamble = "import sys, os\nfrom pathlib import Path\nfrom tests.cache.support import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", preamble + program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
