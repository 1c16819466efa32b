"""The walk of LMDB's trees against LMDB: the same bytes, or unsure; on damaged files no wrong byte and no crash."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.support import chunk, chunks
from zerofs._fast import PinnedTree
from zerofs.cache import entry
from zerofs.cache.datafile import CHUNKS_DATABASE
from zerofs.cache.lmdb import ChunkCache, Snapshot

SIZE = 64 << 20
LARGE = 512 * 1024


def pinned(snapshot: Snapshot) -> PinnedTree:
    tree = snapshot.tree()
    assert tree is not None
    return tree


def disagreements(cache: ChunkCache, names: list[bytes]) -> list[bytes]:
    """The names for which the walk does not say what LMDB says."""
    with cache.snapshot() as snapshot:
        tree = pinned(snapshot)
        return [name for name in names if tree.find(name) != snapshot.find(name)]


@pytest.mark.parametrize("count", [0, 1, 2, 30, 300, 5000])
@pytest.mark.parametrize("size", [0, 1, 900, 2200])
def test_trees_of_many_depths(count: int, size: int, tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(count, size))
        names = [name for name, _ in chunks(count + 300, 0)]
        assert disagreements(cache, names) == []
        with cache.snapshot() as snapshot:
            found = [pinned(snapshot).find(name) for name in names]
        assert [view is not None for view in found] == [True] * count + [False] * 300


@settings(max_examples=25, deadline=None)
@given(
    entries=st.dictionaries(
        st.binary(min_size=1, max_size=511), st.integers(0, 40_000) | st.integers(0, 300), max_size=60
    ),
    others=st.lists(st.binary(max_size=600), max_size=20),
    dropped=st.integers(0, 30),
)
def test_any_names_and_lengths(
    entries: dict[bytes, int], others: list[bytes], dropped: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ChunkCache(tmp_path_factory.mktemp("cache"), size_limit=SIZE) as cache:
        cache.put_many((name, random.Random(name).randbytes(size)) for name, size in entries.items())
        for name in list(entries)[:dropped]:
            cache.drop(name)
        cache.put_many((name + b"-", b"later") for name in list(entries)[:3] if len(name) < 511)
        near = [name[:-1] for name in entries] + [name + b"\0" for name in entries]
        assert disagreements(cache, [*entries, *near, *others]) == []


def test_what_is_long_lies_in_pages_of_its_own(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        sizes = [*range(1980, 2060), *range(4040, 4100), LARGE - 1, LARGE, 3 * LARGE + 7]
        stored = [chunk(number, size) for number, size in enumerate(sizes)]
        cache.put_many(stored)
        with cache.snapshot() as snapshot:
            tree = pinned(snapshot)
            for name, plain in stored:
                assert tree.find(name) == plain == snapshot.find(name)


def test_a_tree_shows_the_moment_of_its_transaction(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(50, 5000))
        with cache.snapshot() as snapshot:
            tree = pinned(snapshot)
            for number in range(50):
                cache.drop(chunk(number, 0)[0])
                cache.put_many([chunk(100 + number, 5000)])
            assert all(tree.find(name) == plain for name, plain in chunks(50, 5000))
            assert tree.find(chunk(120, 0)[0]) is None
        assert disagreements(cache, [name for name, _ in chunks(160, 0)]) == []


def test_a_meta_page_that_was_written_since_is_not_believed(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(3, 100))
        with cache.snapshot() as snapshot:
            cache.put_many([chunk(7, 100)])  # the next transaction: its successor would write into the page
            assert snapshot.tree() is None
            assert snapshot.find(chunk(0, 100)[0]) == chunk(0, 100)[1]
        with cache.snapshot() as snapshot:
            assert pinned(snapshot).find(chunk(7, 100)[0]) == chunk(7, 100)[1]


def test_other_files_and_databases_are_not_walked(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(3, 100))
        with cache.snapshot() as snapshot:
            mapped, transaction = snapshot._mapped, snapshot._transaction
            assert mapped is not None and mapped.guard is not None and transaction is not None
            sound = (mapped.page_size, transaction.id(), CHUNKS_DATABASE)
            assert PinnedTree(mapped.guard, *sound).find(chunk(0, 0)[0]) == chunk(0, 100)[1]
            for wrong in [
                (mapped.page_size * 2, *sound[1:]),
                (17, *sound[1:]),
                (0, *sound[1:]),
                (sound[0], sound[1] + 1, sound[2]),
                (sound[0], sound[1] + 2, sound[2]),
                (sound[0], 0, sound[2]),
                (*sound[:2], b"chunk"),
                (*sound[:2], b""),
            ]:
                with pytest.raises(LookupError):
                    PinnedTree(mapped.guard, *wrong)


def test_a_rotten_entry_is_for_lmdb_to_judge(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(3, LARGE))
    data = bytearray((tmp_path / "data.mdb").read_bytes())
    at = data.index(chunk(1, LARGE)[1])
    data[at + 100_000] ^= 4
    (tmp_path / "data.mdb").write_bytes(data)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache, cache.snapshot() as snapshot:
        tree = pinned(snapshot)
        with pytest.raises(LookupError):
            tree.find(chunk(1, 0)[0])
        assert tree.find(chunk(0, 0)[0]) == chunk(0, LARGE)[1]


def test_a_page_that_cannot_be_had_ends_the_walk(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(20, LARGE))
        with cache.snapshot() as snapshot:
            tree, mapped = pinned(snapshot), snapshot._mapped
            assert mapped is not None and mapped.guard is not None
            os.truncate(tmp_path / "data.mdb", 3 << 20)
            lost = 0
            for name, plain in chunks(20, LARGE):
                try:
                    assert bytes(tree.find(name) or b"") == plain
                except LookupError:
                    lost += 1
            assert 10 < lost <= 20
            assert mapped.guard.whole, "no page of zeros was laid anywhere"


WRITER = """
import random, sys
from pathlib import Path
from tests.cache.support import chunk
from zerofs.cache.lmdb import ChunkCache
chance = random.Random(1)
with ChunkCache(Path(sys.argv[1]), size_limit=64 << 20) as cache:
    print("begun", flush=True)
    while True:
        numbers = [chance.randrange(300) for _ in range(10)]
        cache.put_many(chunk(number, number * 97) for number in numbers)
        for number in numbers[:7]:
            cache.drop(chunk(chance.randrange(300), 0)[0])
"""


def test_walks_beside_a_process_that_adds_and_drops(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        names = dict(chunk(number, number * 97) for number in range(300))
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE)
        found = wrong = rounds = 0
        moments: set[tuple[bool, ...]] = set()

        def read() -> None:
            nonlocal found, wrong
            for name, plain in names.items():
                view = tree.find(name)
                found += view is not None
                wrong += view is not None and view != plain

        try:
            assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
            deadline = time.monotonic() + 60
            while rounds < 100 or len(moments) < 2:
                assert time.monotonic() < deadline
                with cache.snapshot() as snapshot:
                    known = snapshot.tree()
                    if known is None:  # a commit came between, or is under way
                        continue
                    tree = known
                    rounds += 1
                    threads = [threading.Thread(target=read) for _ in range(2)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    here = tuple(tree.find(name) is not None for name in names)
                    assert here == tuple(snapshot.find(name) is not None for name in names)
                    moments.add(here)
        finally:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        assert (found > 0, wrong) == (True, 0)


FUZZ = """
import random, struct, sys
from pathlib import Path
import lmdb
from tests.cache.support import chunk
from zerofs._fast import GuardedMap, PinnedTree
import mmap
data, rounds, seed = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3])
transaction = int(sys.argv[4])
names = [chunk(number, 0)[0] for number in range(0, 420, 3)]
plain = {name: chunk(number, 5000 if number % 40 == 0 else 60)[1] for number, name in zip(range(0, 420, 3), names)}
trees = [at for at in range(0, len(data), 4096) if data[at + 10] in (1, 2, 8)]
chance = random.Random(seed)
counts = {"same": 0, "absent": 0, "unsure": 0}
for _ in range(rounds):
    spoilt = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 20])):
        page = chance.choice(trees)
        kind = chance.randrange(4)
        if kind == 0:  # the header and the offsets
            spoilt[page + chance.randrange(64)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            spoilt[page + chance.randrange(4096)] ^= 1 << chance.randrange(8)
        elif kind == 2:  # a number that leads elsewhere
            at = page + 2 * chance.randrange(2040)
            wrong = [0, 1, 16, 4094, 4095, 4096, 32768, 65535, chance.randrange(65536)]
            struct.pack_into("<H", spoilt, at, chance.choice(wrong))
        else:  # one page in place of another
            other = chance.choice(trees)
            spoilt[page : page + 4096] = data[other : other + 4096]
    memory = mmap.mmap(-1, len(data))
    memory[:] = spoilt
    if chance.random() < 0.2:  # cut: what the map shows past the end cannot be had
        import os
        descriptor = os.memfd_create("cut")
        os.pwrite(descriptor, spoilt, 0)
        memory = mmap.mmap(descriptor, len(data), prot=mmap.PROT_READ)
        os.truncate(descriptor, 4096 * chance.randrange(len(data) // 4096))
        os.close(descriptor)
    guard = GuardedMap(memory)
    try:
        tree = PinnedTree(guard, 4096, transaction, b"chunks")
    except LookupError:
        counts["unsure"] += 1
        guard.close()
        continue
    for name in names:
        try:
            found = tree.find(name)
        except LookupError:
            counts["unsure"] += 1
            continue
        assert found is None or found == plain[name], "wrong bytes"
        counts["absent" if found is None else "same"] += 1
    guard.close()
print(*counts.values())
"""


def test_damaged_trees(tmp_path: Path) -> None:
    """Flipped bits, wrong numbers, swapped pages, cut files: in a process of its own, which would be seen to crash."""
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunk(number, 5000 if number % 40 == 0 else 60) for number in range(0, 400, 3))
        with cache.snapshot() as snapshot:
            pinned(snapshot)
            assert snapshot._transaction is not None
            transaction = snapshot._transaction.id()
    command = [sys.executable, "-c", FUZZ, tmp_path / "data.mdb", "1500", "1", str(transaction)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same, absent, unsure = map(int, done.stdout.split())
    assert same > 10_000 and absent > 1000 and unsure > 1000


@given(
    name=st.binary(min_size=1, max_size=511),
    plain=st.binary(max_size=600) | st.binary(min_size=3000, max_size=3100),
)
@settings(max_examples=30, deadline=None)
def test_checksums_are_those_that_python_computes(
    name: bytes, plain: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`pack_entries` and the walk compute them by xxhash.h, and LMDB's side checks them by the package xxhash."""
    with ChunkCache(tmp_path_factory.mktemp("cache"), size_limit=SIZE) as cache:
        cache.put_many([(name, plain)])
        with cache.snapshot() as snapshot:
            assert pinned(snapshot).find(name) == plain == snapshot.read(name)


def test_the_layout_is_the_one_that_python_writes(tmp_path: Path) -> None:
    """Any change of a byte of the header, or of a length, is found by both."""
    name, plain = chunk(3, 100)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many([(name, plain)])
        mapped = cache._environment.mapped
        assert mapped is not None
        with mapped.env.begin(mapped.chunks) as transaction:
            value = transaction.get(name)
        for at in range(entry.HEADER_SIZE + len(plain)):
            with mapped.env.begin(mapped.chunks, write=True) as transaction:
                transaction.put(name, value[:at] + bytes([value[at] ^ 16]) + value[at + 1 :])
            with cache.snapshot() as snapshot, pytest.raises(LookupError):
                pinned(snapshot).find(name)
        for wrong in (value[:-1], value + b"\0", value[: entry.HEADER_SIZE - 1], b""):
            with mapped.env.begin(mapped.chunks, write=True) as transaction:
                transaction.put(name, wrong)
            with cache.snapshot() as snapshot, pytest.raises(LookupError):
                pinned(snapshot).find(name)


def test_a_named_database_under_a_name_is_no_entry(tmp_path: Path) -> None:
    env = lmdb.Environment(str(tmp_path), max_dbs=4, map_size=SIZE)
    env.open_db(b"chunks")
    env.close()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, 10))
        assert disagreements(cache, [b"chunks", b"order", chunk(0, 0)[0]]) == []
