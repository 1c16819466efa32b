"""Pages of mapped files that the disk cannot give: what SIGBUS would end goes on, and no zeros are taken for bytes."""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cache.support import bad_files, chunk, chunks, contents
from zerofs._fast import GuardedMap, take_fault
from zerofs.cache.lmdb import ChunkCache

PAGE = mmap.PAGESIZE
SIZE = 16 << 20
LARGE = 512 * 1024
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


def address_of(view: memoryview) -> int:
    import numpy

    return int(numpy.frombuffer(view, dtype=numpy.uint8).ctypes.data)


def lose(address: int) -> None:
    """Have the page at `address` be one that touching ends in SIGBUS: a page beyond the end of its file."""
    empty = os.memfd_create("empty")
    page = address & ~(PAGE - 1)
    flags = mmap.MAP_SHARED | 0x10  # MAP_FIXED
    assert _libc.mmap(page, PAGE, mmap.PROT_READ, flags, empty, 0) == page
    os.close(empty)


@pytest.fixture
def mapped(tmp_path: Path):
    """A file of four pages, each full of its number, mapped."""
    (tmp_path / "file").write_bytes(b"".join(bytes([number]) * PAGE for number in range(1, 5)))
    with (tmp_path / "file").open("r+b") as file:
        yield file, mmap.mmap(file.fileno(), 4 * PAGE, prot=mmap.PROT_READ)


def test_a_lost_page_reads_as_zeros_is_counted_and_comes_back(mapped):
    file, memory = mapped
    guard = GuardedMap(memory)
    take_fault()
    file.truncate(2 * PAGE)
    assert memory[0] == 1
    assert guard.whole
    assert take_fault() == 0
    assert memory[3 * PAGE + 100] == 0
    assert (guard.faults, guard.whole) == (1, False)
    with memoryview(memory) as whole:
        fault = take_fault()
        assert guard.holds(whole[3 * PAGE :], fault)
        assert not guard.holds(whole[: 2 * PAGE], fault)
    assert take_fault() == 0
    file.truncate(4 * PAGE)
    os.pwrite(file.fileno(), b"\x07" * PAGE, 3 * PAGE)
    assert memory[3 * PAGE] == 0  # still the page of zeros
    guard.restore()
    assert guard.whole
    assert memory[3 * PAGE] == 7
    assert guard.faults == 1


def test_the_kernel_gets_the_bytes_or_an_error_never_zeros(mapped, tmp_path):
    file, memory = mapped
    guard = GuardedMap(memory)
    with memoryview(memory) as whole:
        view = guard.for_kernel(whole[3 * PAGE :])
        outside = memoryview(bytes(10))
        with pytest.raises(ValueError, match="not a part"):
            guard.for_kernel(outside)
    copy = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    assert os.write(copy, view) == PAGE
    assert os.pread(copy, PAGE, 0) == b"\x04" * PAGE
    file.truncate(3 * PAGE)
    assert memory[3 * PAGE] == 0
    with pytest.raises(OSError) as caught:
        os.write(copy, view)
    assert caught.value.errno == errno.EFAULT
    os.close(copy)


def test_elsewhere_the_signal_still_ends_the_process(tmp_path):
    program = """
import mmap, os, sys
from zerofs._fast import GuardedMap
def mapped():
    descriptor = os.memfd_create("file")
    os.truncate(descriptor, 8192)
    memory = mmap.mmap(descriptor, 8192, prot=mmap.PROT_READ)
    os.truncate(descriptor, 4096)
    return memory
guarded, bare, closed = mapped(), mapped(), mapped()
guard, other = GuardedMap(guarded), GuardedMap(closed)
other.close()
assert guarded[5000] == 0 and guard.faults == 1
print("so far", flush=True)
print({"bare": bare, "closed": closed}[sys.argv[1]][5000])
"""
    for which in ("bare", "closed"):
        done = subprocess.run([sys.executable, "-c", program, which], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (-signal.SIGBUS, b"so far\n"), done.stderr


def test_many_maps_can_be_guarded_and_given_back(mapped):
    _, memory = mapped
    guards = []
    with pytest.raises(OSError, match="guard"):
        for _ in range(1000):
            guards.append(GuardedMap(memory))
    assert len(guards) > 100
    guards.clear()
    assert GuardedMap(memory).whole


# -- the cache -----------------------------------------------------------------------------


def test_a_lost_page_of_an_entry_costs_that_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        stored = chunks(6, LARGE)
        cache.put_many(stored)
        with cache.snapshot() as snapshot:
            plain = snapshot._look_up(stored[3][0], verify=False)
            assert plain is not None
            lose(address_of(plain) + 200_000)
            assert snapshot.find(stored[3][0]) is None
            assert snapshot.read(stored[3][0]) is None or snapshot.read(stored[3][0]) == stored[3][1]
            assert snapshot.read(stored[2][0]) == stored[2][1]
        assert cache.stats().damaged == 1
        cache.put_many([stored[3]])  # which drops the old one first
        assert contents(cache, 6) == stored
        assert bad_files(tmp_path) == []


@pytest.mark.parametrize("verify", [True, False])
def test_a_lost_page_of_the_trees_costs_the_file(
    verify: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(400, 500))
        with cache.snapshot() as snapshot:
            name, plain = chunk(7, 500)
            found = snapshot._look_up(name, verify=False)
            assert found is not None
            lose(address_of(found))  # small entries lie in the leaves of the tree
            assert snapshot.find(name, verify=verify) is None
        assert len(bad_files(tmp_path)) == 1
        assert "cannot give a page" in caplog.text
        assert contents(cache, 400) == []
        cache.put_many([(name, plain)])
        assert contents(cache, 8) == [(name, plain)]


def test_a_write_over_a_lost_page_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(3, 500))
        with cache.snapshot() as snapshot:
            found = snapshot._look_up(chunk(0, 500)[0], verify=False)
            assert found is not None
            address = address_of(found)
        lose(address)
        assert cache.put_many([chunk(9, 500)]) == 0
        assert len(bad_files(tmp_path)) == 1
        assert cache.put_many([chunk(9, 500)]) == 1
        assert contents(cache, 10) == [chunk(9, 500)]


def test_a_file_that_is_cut_while_it_is_mapped(tmp_path: Path):
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        stored = chunks(12, LARGE)
        cache.put_many(stored)
        os.truncate(tmp_path / "data.mdb", 2 << 20)
        for name, plain in stored:
            with cache.snapshot() as snapshot:
                assert snapshot.read(name) in (None, plain)
        cache.put_many(stored)
        cache.put_many(stored)
        assert contents(cache, 12) == stored
