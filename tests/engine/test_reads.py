"""The fast engine's reads against a fake kernel: from the cache, parked, interrupted, counted."""

from __future__ import annotations

import errno
import random
import struct
import time

import pytest

from tests.engine.kernel import ENTRY, INTERRUPT, READ, STATFS, Kernel, read_in
from tests.engine.support import Chunks, node
from zerofs.flist.index import Index
from zerofs.flist.model import CHUNK_SIZE

# -- reading ---------------------------------------------------------------------------------


def test_reads_from_the_cache(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    chunks.cached = dict(chunks.all)
    inode = node(index, "big")
    whole = chunks.content(inode - 1)
    chance = random.Random(1)
    for _ in range(200):
        offset, size = chance.randrange(len(whole) + 10), chance.choice([1, 4096, 131072, 1 << 20])
        if chance.random() < 0.5:
            offset = max(0, min(len(whole), CHUNK_SIZE * chance.randrange(3) + chance.randrange(-3, 3)))
        if chance.random() < 0.1:
            kernel.engine.renew()
        assert kernel.read(inode, offset, size)[::2] == (0, whole[offset : offset + size])
    assert chunks.waiting == []


def test_parked_read_is_answered_when_its_chunks_are_there(
    kernel: Kernel, index: Index, chunks: Chunks
) -> None:
    inode = node(index, "big")
    whole = chunks.content(inode - 1)
    chunks.cached = {index.chunk(index.refs(inode - 1)[1]).key: whole[CHUNK_SIZE : 2 * CHUNK_SIZE]}
    unique = kernel.send(READ, inode, read_in(5, 1 << 20))
    while len(chunks.waiting) < 1:
        time.sleep(0.001)
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == inode  # others go on meanwhile
    kernel.engine.renew()
    chunks.deliver()
    answer = kernel.receive()
    assert answer == (0, unique, whole[5 : 5 + (1 << 20)])


def test_read_fails_with_its_chunk(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    unique = kernel.send(READ, node(index, "big"), read_in(0, 4096))
    while not chunks.waiting:
        time.sleep(0.001)
    chunks.deliver(fail=True)
    assert kernel.receive() == (errno.EIO, unique, b"")


def test_chunk_of_wrong_size_is_no_answer(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    key = index.chunk(index.refs(node(index, "big") - 1)[0]).key
    chunks.cached[key] = chunks.all[key] = b"too short"
    unique = kernel.send(READ, node(index, "big"), read_in(0, 4096))
    while not chunks.waiting:
        time.sleep(0.001)
    chunks.deliver()
    assert kernel.receive() == (errno.EIO, unique, b"")


def test_bytes_without_a_chunk(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    chunks.cached = dict(chunks.all)
    inode = node(index, "short")
    assert kernel.read(inode, 0, 4096).error == 0
    assert kernel.read(inode, CHUNK_SIZE * 2 - 10, 10).error == 0
    assert kernel.read(inode, CHUNK_SIZE * 2 - 10, 11).error == errno.EIO
    assert kernel.read(inode, CHUNK_SIZE * 2, 10).error == errno.EIO


def test_reads_that_make_no_sense(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    chunks.cached = dict(chunks.all)
    assert kernel.read(1, 0, 10).error == errno.EISDIR
    assert kernel.read(node(index, "bin/ls"), 0, 10).error == errno.EINVAL
    assert kernel.read(node(index, "big"), 0, (1 << 20) + 1).error == errno.EINVAL
    assert kernel.read(node(index, "big"), 2**64 - 1, 4096)[::2] == (0, b"")
    assert kernel.read(node(index, "big"), 2**63, 4096)[::2] == (0, b"")
    assert kernel.read(node(index, "big"), 0, 0)[::2] == (0, b"")


@pytest.mark.parametrize(("pid", "error"), [(666, errno.EINTR), (1, None)])
def test_interrupt_ends_the_wait_of_who_is_killed(
    kernel: Kernel, index: Index, chunks: Chunks, pid: int, error: int | None
) -> None:
    unique = kernel.send(READ, node(index, "big"), read_in(0, 4096), pid=pid)
    while not chunks.waiting:
        time.sleep(0.001)
    kernel.send(INTERRUPT, 0, struct.pack("<Q", unique))
    kernel.send(INTERRUPT, 0, struct.pack("<Q", 9999))  # of a request that is not there
    if error is None:
        kernel.ask(STATFS)
        kernel.engine.give_up_killed()
        chunks.deliver()
        assert kernel.receive()[:2] == (0, unique)
    else:
        assert kernel.receive() == (error, unique, b"")
        chunks.deliver()  # comes too late, and does nothing
        kernel.ask(STATFS)


def test_an_interrupt_that_comes_before_its_read_is_parked_counts(
    kernel: Kernel, index: Index, chunks: Chunks
) -> None:
    """A thread has taken the read and not got far with it when another takes the interrupt."""
    unique = kernel.ask(STATFS).unique + 4  # of the request after the interrupt
    kernel.send(INTERRUPT, 0, struct.pack("<Q", unique))
    time.sleep(0.05)  # for the thread that takes it; if it comes later, this is the test above
    assert kernel.send(READ, node(index, "big"), read_in(0, 4096), pid=666) == unique
    assert kernel.receive() == (errno.EINTR, unique, b"")
    chunks.deliver()
    kernel.ask(STATFS)


# -- what is counted -------------------------------------------------------------------------


def test_reads_are_counted(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    inode = node(index, "big")
    unique = kernel.send(READ, inode, read_in(0, 5000))
    while not chunks.waiting:
        time.sleep(0.001)
    assert kernel.engine.reads() == (0, 0, 1, 1, 0)
    chunks.deliver()
    assert kernel.receive()[:2] == (0, unique)
    assert kernel.engine.reads() == (1, 5000, 1, 0, 0)
    chunks.cached = dict(chunks.all)
    for _ in range(3):
        assert kernel.read(inode, CHUNK_SIZE - 10, 20).error == 0
    kernel.ask(STATFS)  # the answer to a read comes before it is counted
    assert kernel.engine.reads() == (4, 5060, 1, 0, 0)
    assert kernel.read(node(index, "short"), CHUNK_SIZE * 2, 10).error == errno.EIO
    kernel.ask(STATFS)
    assert kernel.engine.reads() == (4, 5060, 1, 0, 1)
