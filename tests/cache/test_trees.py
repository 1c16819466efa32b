"""A file with flipped bits in LMDB's own pages costs the file, and no process."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zerofs.cache.lmdb import ChunkCache
from zerofs.cache.trees import find_misfit

SIZE = 4 << 20
PAGE = 4096
WORK = f"""
import os, random, sys
from pathlib import Path
from zerofs.cache.lmdb import ChunkCache
chance = random.Random(int(sys.argv[2]))
cache = ChunkCache(Path(sys.argv[1]), size_limit={SIZE})
for _ in range(60):
    entries = [(b"\\0" + chance.randbytes(20), chance.randbytes(chance.choice([9, 900, 60_000]))) for _ in range(6)]
    cache.put_many(entries)
    with cache.snapshot() as snapshot:
        assert snapshot.read(entries[-1][0]) in (None, entries[-1][1])
os._exit(0)  # no goodbye
"""


def work(directory: Path, seed: int) -> int:
    """Fill a cache beyond its bound and leave it as a killed process would; the exit status."""
    command = [sys.executable, "-c", WORK, directory, str(seed)]
    return subprocess.run(command, check=False, timeout=120, stderr=subprocess.DEVNULL).returncode


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which much was evicted, and whose only user is dead."""
    directory = tmp_path_factory.mktemp("left") / "cache"
    assert work(directory, 1) == 0
    return directory


def flip_in_free_list(data: Path, seed: int) -> None:
    """Flip a bit in the number of a transaction, in the list of pages that transactions set free."""
    chance = random.Random(seed)
    content = bytearray(data.read_bytes())
    metas = [struct.unpack_from("<QQ", content, at + 136)[1] for at in (0, PAGE)]
    (page,) = struct.unpack_from("<Q", content, metas.index(max(metas)) * PAGE + 80)
    kind = 1
    while kind == 1:
        _, _, kind, lower, _ = struct.unpack_from("<QHHHH", content, page * PAGE)
        nodes = struct.unpack_from(f"<{(lower - 16) // 2}H", content, page * PAGE + 16)
        at, page = page, struct.unpack_from("<I", content, page * PAGE + nodes[0])[0]
    content[at * PAGE + chance.choice(nodes[1:-1]) + 10 + chance.randrange(5)] ^= 1 << chance.randrange(8)
    data.write_bytes(content)


def flip_in_trees(data: Path, seed: int) -> None:
    """Flip a bit of every page that belongs, or once did, to a tree."""
    chance = random.Random(seed)
    content = bytearray(data.read_bytes())
    for at in range(2 * PAGE, len(content), PAGE):
        number, _, kind, _, upper = struct.unpack_from("<QHHHH", content, at)
        if number == at // PAGE and kind in (1, 2) and upper < PAGE:
            content[at + chance.randrange(upper, PAGE)] ^= 1 << chance.randrange(8)
    data.write_bytes(content)


def test_what_lmdb_writes_fits_together(tmp_path: Path) -> None:
    chance = random.Random(7)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        for _ in range(60):
            sizes = [chance.choice([9, 900, 5_000, 60_000]) for _ in range(8)]
            cache.put_many([(b"\0" + chance.randbytes(20), chance.randbytes(size)) for size in sizes])
            assert find_misfit(tmp_path / "data.mdb") is None
        assert cache.stats().evicted


@pytest.mark.parametrize("flip", [flip_in_free_list, flip_in_trees])
@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_bit_ends_no_process(
    left: Path, tmp_path: Path, flip: Callable[[Path, int], None], seed: int
) -> None:
    cache = Path(shutil.copytree(left, tmp_path / "cache"))
    assert find_misfit(cache / "data.mdb") is None
    flip(cache / "data.mdb", seed)
    assert find_misfit(cache / "data.mdb") is not None
    assert work(cache, 2) == 0
    assert list(cache.glob("data.mdb.bad-*"))


@pytest.mark.parametrize("length", [100, PAGE, 3 * PAGE])
def test_a_file_that_was_cut_does_not_fit(left: Path, tmp_path: Path, length: int) -> None:
    data = tmp_path / "data.mdb"
    data.write_bytes((left / "data.mdb").read_bytes()[:length])
    assert find_misfit(data) is not None
