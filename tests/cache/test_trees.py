"""A file with flipped bits in LMDB's own pages costs the file, and no process."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from tests.cache.pages import OVERFLOW, PAGE, Pages
from tests.cache.support import chunks
from zerofs._fast import find_misfit_in
from zerofs.cache.lmdb import ChunkCache
from zerofs.cache.trees import MOST_PAGES, find_misfit

SIZE = 4 << 20
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


def test_lists_of_free_pages_that_lmdb_shortened_fit_together(tmp_path: Path) -> None:
    """It does so where they lie, and such a list keeps a page more than its length says: of some of these counts."""
    for count in range(3500, 3560):
        data = tmp_path / "data"
        with lmdb.open(str(data), subdir=False, map_size=1 << 30, max_dbs=1, sync=False, lock=False) as env:
            values = env.open_db(b"values")
            with env.begin(values, write=True) as transaction:
                for number in range(count):
                    transaction.put(b"%06d" % number, bytes(4000))
            with env.begin(values, write=True) as transaction:
                transaction.drop(values, delete=False)
            for number in range(3):
                with env.begin(values, write=True) as transaction:
                    transaction.put(b"last", bytes([number]))
                assert find_misfit(data) is None, (count, number)
        data.unlink()


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


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a cache whose trees have more than a thousand pages."""
    directory = tmp_path_factory.mktemp("large")
    with ChunkCache(directory, size_limit=16 << 20) as cache:
        cache.put_many(chunks(3000, 1000))
        mapped = cache._environment.mapped
        assert mapped is not None
        with mapped.env.begin() as transaction:
            stat = transaction.stat(mapped.chunks)
            assert stat["leaf_pages"] > 1000 and stat["depth"] == 3
    return directory / "data.mdb"


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_bit_in_a_large_tree(large: Path, tmp_path: Path, seed: int) -> None:
    data = Path(shutil.copy(large, tmp_path / "data.mdb"))
    assert find_misfit(data) is None
    flip_in_trees(data, seed)
    assert find_misfit(data) is not None


def test_what_is_neither_small_nor_in_memory_is_left_out(large: Path, tmp_path: Path) -> None:
    pages = Pages(large)
    spoil(pages, "the size of a node")
    data, size = tmp_path / "data.mdb", len(pages.bytes)
    data.write_bytes(pages.bytes)
    with data.open("r+b", buffering=0) as file:
        assert find_misfit_in(file.fileno(), size, 100, MOST_PAGES) is None
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        leaf = pages.leaf(pages.database(b"chunks"))
        gone = not is_in_memory(file.fileno(), leaf)  # some file systems have nowhere else to keep it
        assert (find_misfit_in(file.fileno(), size, MOST_PAGES, 0) is None) == gone
        assert find_misfit_in(file.fileno(), size, MOST_PAGES, MOST_PAGES) is not None


def is_in_memory(file: int, page: int) -> bool:
    try:
        return os.preadv(file, [bytearray(PAGE)], page, os.RWF_NOWAIT) == PAGE
    except OSError:
        return False


def spoil(pages: Pages, what: str) -> None:
    """Make one thing not fit, and as far as possible nothing else."""
    tree = pages.database(b"chunks")
    leaf = pages.leaf(tree)
    first, second = pages.nodes(leaf)[:2]
    branch = pages.root(tree)
    match what:
        case "the file is too short":
            del pages.bytes[-40 * PAGE :]
        case "the size of a page":
            pages.put("I", 40, 4097)
        case "a meta page":
            pages.put("I", PAGE + 16, 1)
        case "the number of pages":
            pages.put("Q", pages.meta + 136, 2**40)
        case "the depth of a tree":
            pages.put("H", tree + 6, 33)
        case "an empty tree":
            pages.put("Q", tree + 40, 2**64 - 1)
        case "the number of a page":
            pages.put("Q", tree + 40, 2**40)
        case "a page is part of two things":
            nodes = pages.nodes(branch)
            pages.put("I", nodes[1], pages.get("I", nodes[0]))
        case "what a page is":
            pages.put("H", leaf + 10, OVERFLOW)
        case "the number of nodes":
            pages.put("H", leaf + 12, 16)
        case "the bounds of nodes":
            pages.put("H", leaf + 14, PAGE + 2)
        case "the place of a node":
            pages.put("H", leaf + 16, PAGE - 6)
        case "the size of a node":
            pages.put("I", first, PAGE)
        case "the kind of an entry":
            pages.put("H", first + 4, 2)
        case "the order of names":
            pages.put("Q", second + 8, 0)
        case "the names below a page":
            last = pages.nodes(leaf)[-1]
            pages.put("Q", last + 8, 2**64 - 1)
        case "what a tree counts":
            pages.put("Q", tree + 32, 1)
        case "the room of nodes":
            pages.put("H", leaf + 14, pages.get("H", leaf + 14) - 2)
        case "the value of a database":
            pages.put("H", tree - 8 - len(b"chunks") + 4, 0)
        case "the order of free pages":
            numbers = pages.free_list()
            pages.put("Q", numbers + 16, pages.get("Q", numbers + 8))
        case "how many pages are free":
            pages.put("Q", pages.free_list(), 2**20)
        case "the transaction of free pages":
            pages.put("Q", pages.nodes(pages.leaf(pages.meta + 40))[-1] + 8, 2**40)
        case _:
            raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "the file is too short",
        "the size of a page",
        "a meta page",
        "the number of pages",
        "the depth of a tree",
        "an empty tree",
        "the number of a page",
        "a page is part of two things",
        "what a page is",
        "the number of nodes",
        "the bounds of nodes",
        "the place of a node",
        "the size of a node",
        "the kind of an entry",
        "the order of names",
        "the names below a page",
        "what a tree counts",
        "the room of nodes",
        "the value of a database",
        "the order of free pages",
        "how many pages are free",
        "the transaction of free pages",
    ],
)
def test_each_misfit_is_told(large: Path, tmp_path: Path, what: str) -> None:
    pages = Pages(large)
    spoil(pages, what)
    data = tmp_path / "data.mdb"
    data.write_bytes(pages.bytes)
    assert find_misfit(data) == f"its pages do not fit together: {what}"


@pytest.mark.parametrize("length", [100, PAGE, 3 * PAGE])
def test_a_file_that_was_cut_does_not_fit(left: Path, tmp_path: Path, length: int) -> None:
    data = tmp_path / "data.mdb"
    data.write_bytes((left / "data.mdb").read_bytes()[:length])
    assert find_misfit(data) is not None
