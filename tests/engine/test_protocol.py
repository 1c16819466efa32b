"""The fast engine, request by request, against a fake kernel: each answer byte by byte."""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.engine.kernel import (
    ACCESS,
    ATTR,
    BATCH_FORGET,
    DESTROY,
    ENTRY,
    FLUSH,
    FORGET,
    GETATTR,
    GETXATTR,
    IN,
    INIT,
    INTERRUPT,
    LISTXATTR,
    LOOKUP,
    LSEEK,
    MKDIR,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    READDIRPLUS,
    READLINK,
    RELEASE,
    SETATTR,
    STATFS,
    UNLINK,
    WRITE,
    Kernel,
    dirents,
    read_in,
)  # fmt: skip
from tests.index.trees import TreeReader, device, file, link
from zerofs._fast import Recency, WorkingSet
from zerofs.flist.compile import compile_flist
from zerofs.flist.graft import graft
from zerofs.flist.index import Index
from zerofs.flist.model import CHUNK_SIZE, Kind

FOREVER = 1_000_000_000
TREE = {
    "bin": {"sh": file("shell", mode=0o4755), "ls": link("../usr/bin/ls")},
    "dev": {"null": device(Kind.CHARDEV, 1, 3)},
    "many": {f"name-{n:04}": file("") for n in range(700)},
    "gone": None,
    "big": file("big", size=CHUNK_SIZE * 2 + 5),
    "short": file("short", size=CHUNK_SIZE * 3, chunks=2),
}


class Chunks:
    """What a cache and a store hold: chunk key → bytes.  Stands for both; the real ones have tests of their own."""

    def __init__(self, index: Index) -> None:
        chance = random.Random(5)
        self.index = index
        self.all = {
            index.chunk(n).key: chance.randbytes(index.chunk(n).size) for n in range(index.chunk_count)
        }
        self.cached: dict[bytes, bytes] = {}
        self.live = 0
        self.waiting: list[tuple[int, Callable[[int, bytes | None], None]]] = []

    def working_set(self) -> WorkingSet:
        return WorkingSet(Recency())

    def snapshot(self) -> Chunks:
        self.live += 1
        return self

    def release(self) -> None:
        self.live -= 1

    def tree(self) -> None:
        """It is not LMDB's."""

    def find(self, name: bytes, *, verify: bool = True) -> memoryview | None:
        plain = self.cached.get(name[1:])  # behind the codec
        return None if plain is None else memoryview(plain)

    def request(self, index: object, number: int, done: Callable[[int, bytes | None], None]) -> None:
        self.waiting.append((number, done))

    def deliver(self, *, fail: bool = False) -> None:
        waiting, self.waiting = self.waiting, []
        for number, done in waiting:
            done(number, None if fail else self.all[self.index.chunk(number).key])

    def content(self, row: int) -> bytes:
        return b"".join(self.all[self.index.chunk(number).key] for number in self.index.refs(row))


@pytest.fixture
def index() -> Index:
    return Index.anonymous(compile_flist(TreeReader(TREE)))


@pytest.fixture
def chunks(index: Index) -> Chunks:
    return Chunks(index)


@pytest.fixture
def kernel(index: Index, chunks: Chunks) -> Iterator[Kernel]:
    kernel = Kernel(
        index.map,
        cache=chunks,
        request=chunks.request,
        kill_pending=lambda pid: pid == 666,
        total_size=index.total_size,
    )
    kernel.init()
    yield kernel
    kernel.close()
    assert kernel.results == [0]
    kernel.engine.renew()
    assert chunks.live == 0


def node(index: Index, path: str) -> int:
    row = index.resolve(path.encode())
    assert row is not None
    return row + 1


# -- INIT ------------------------------------------------------------------------------------


def test_init_takes_what_the_kernel_offers(index: Index) -> None:
    kernel = Kernel(index.map)
    answer = kernel.init()
    major, minor, readahead, flags, background, congestion, write, gran, pages, _, flags2 = (
        struct.unpack_from("<IIIIHHIIHHI", answer.body)
    )
    assert (len(answer.body), major, minor, write, gran, pages) == (64, 7, 38, 4096, 10**9, 256)
    assert readahead >= 1 << 20 and background >= congestion > 12
    for bit in (0, 4, 13, 14, 17, 18, 22, 23, 24, 25, 30):  # those of the kernel's header, by number
        assert flags & 1 << bit, bit
    assert flags & 1 << 3 == flags & 1 << 16 == 0  # no truncation, no write cache
    assert flags2 == 1 << 7  # resending
    assert kernel.engine.resends
    kernel.close()


def test_init_degrades(index: Index) -> None:
    kernel = Kernel(index.map)
    answer = kernel.init(flags=1, flags2=0, minor=28)
    assert struct.unpack_from("<IIII", answer.body)[1::2] == (28, 1)
    assert not kernel.engine.resends
    opened = kernel.ask(OPEN, 2, bytes(8))
    assert opened.error == 0 and struct.unpack("<QII", opened.body)[1] == 2  # keep the page cache
    opened = kernel.ask(OPENDIR, 1, bytes(8))
    assert opened.error == 0 and struct.unpack("<QII", opened.body)[1] == 2 | 8
    kernel.close()


def test_init_with_another_major_number(index: Index) -> None:
    kernel = Kernel(index.map)
    assert struct.unpack_from("<I", kernel.init(major=8).body) == (7,)
    assert struct.unpack_from("<I", kernel.init().body) == (7,)
    kernel.close()


# -- names and attributes --------------------------------------------------------------------


def test_lookup(kernel: Kernel, index: Index) -> None:
    answer = kernel.lookup(node(index, "bin"), b"sh")
    assert (answer.error, len(answer.body)) == (0, 128)
    assert ENTRY.unpack_from(answer.body) == (node(index, "bin/sh"), 0, FOREVER, FOREVER, 0, 0)
    ino, size, blocks, atime, mtime, ctime, *rest = ATTR.unpack_from(answer.body, ENTRY.size)
    assert (ino, size, blocks, atime, mtime, ctime) == (node(index, "bin/sh"), 5, 1, 3, 3, 4)
    assert rest == [0, 0, 0, stat.S_IFREG | 0o4755, 1, 1, 2, 0, 4096, 0]


def test_lookup_of_nothing_is_remembered(kernel: Kernel) -> None:
    for name in (b"nothing", b"x" * 255, b"bi", b"binn"):
        answer = kernel.lookup(1, name)
        assert ENTRY.unpack_from(answer.body) == (0, 0, FOREVER, 0, 0, 0)


def test_lookup_that_fails(kernel: Kernel, index: Index) -> None:
    assert kernel.lookup(node(index, "big"), b"x").error == errno.ENOTDIR
    assert kernel.lookup(node(index, "gone"), b"x").error == errno.EIO
    assert kernel.lookup(1, b"x" * 256).error == errno.ENAMETOOLONG
    assert kernel.lookup(10**6, b"x").error == errno.ENOENT
    assert kernel.lookup(0, b"x").error == errno.ENOENT


def test_lookup_of_dots(kernel: Kernel, index: Index) -> None:
    inside = node(index, "bin")
    assert ENTRY.unpack_from(kernel.lookup(inside, b".").body)[0] == inside
    assert ENTRY.unpack_from(kernel.lookup(inside, b"..").body)[0] == 1


def test_getattr(kernel: Kernel, index: Index) -> None:
    answer = kernel.ask(GETATTR, node(index, "dev/null"), bytes(16))
    assert struct.unpack_from("<QII", answer.body) == (FOREVER, 0, 0)
    mode, nlink, uid, gid, rdev = ATTR.unpack_from(answer.body, 16)[9:14]
    assert (mode, nlink, uid, gid, rdev) == (stat.S_IFCHR | 0o600, 1, 0, 0, 0x103)
    assert len(answer.body) == 104


def test_readlink(kernel: Kernel, index: Index) -> None:
    assert kernel.ask(READLINK, node(index, "bin/ls")).body == b"../usr/bin/ls"
    assert kernel.ask(READLINK, node(index, "big")).error == errno.EINVAL


def test_statfs(kernel: Kernel, index: Index) -> None:
    answer = kernel.ask(STATFS)
    blocks, free, available, files, ffree, bsize, namelen, frsize = struct.unpack_from(
        "<QQQQQIII", answer.body
    )
    assert len(answer.body) == 80
    assert (free, available, ffree, bsize, namelen, frsize) == (0, 0, 0, 4096, 255, 4096)
    assert (blocks, files) == (-(-index.total_size // 4096), len(index))


def test_extended_attributes(kernel: Kernel) -> None:
    assert kernel.ask(GETXATTR, 1, struct.pack("<II", 0, 0) + b"user.x\0").error == errno.ENODATA
    assert kernel.ask(LISTXATTR, 1, struct.pack("<II", 0, 0))[::2] == (0, bytes(8))
    assert kernel.ask(LISTXATTR, 1, struct.pack("<II", 100, 0))[::2] == (0, b"")


def test_the_kernel_opens_by_itself(kernel: Kernel) -> None:
    assert kernel.ask(OPEN, 2, bytes(8)).error == errno.ENOSYS
    assert kernel.ask(OPENDIR, 1, bytes(8)).error == errno.ENOSYS


def test_takes_no_writes(kernel: Kernel) -> None:
    for opcode in (SETATTR, MKDIR, UNLINK, WRITE):
        assert kernel.ask(opcode, 1, bytes(128)).error == errno.EROFS


def test_lseek(kernel: Kernel, index: Index) -> None:
    def seek(offset: int, whence: int) -> tuple[int, bytes]:
        answer = kernel.ask(LSEEK, node(index, "big"), struct.pack("<QQII", 0, offset, whence, 0))
        return answer.error, answer.body

    size = CHUNK_SIZE * 2 + 5
    assert seek(7, 3) == (0, struct.pack("<Q", 7))
    assert seek(7, 4) == (0, struct.pack("<Q", size))
    assert seek(size, 3)[0] == seek(size, 4)[0] == errno.ENXIO
    assert seek(0, 0)[0] == errno.EINVAL


# -- listings --------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [READDIR, READDIRPLUS])
@pytest.mark.parametrize("size", [300, 4096, 1 << 20])
def test_listing_in_pieces(kernel: Kernel, index: Index, opcode: int, size: int) -> None:
    plus = opcode == READDIRPLUS
    inode = node(index, "many")
    offset, seen = 0, []
    while entries := dirents(kernel.ask(opcode, inode, read_in(offset, size)).body, plus=plus):
        seen += entries
        offset = entries[-1][2]
    assert [name for name, *_ in seen] == [b".", b"..", *(f"name-{n:04}".encode() for n in range(700))]
    assert [offset for _, _, offset, _, _ in seen] == list(range(1, 703))
    assert [(inode, kind) for _, inode, _, kind, _ in seen[:2]] == [(node(index, "many"), 4), (1, 4)]
    for name, inode, _, kind, entry in seen[2:]:
        assert (inode, kind) == (node(index, f"many/{name.decode()}"), 8)
        if plus:
            assert entry[:6] == (inode, 0, FOREVER, FOREVER, 0, 0) and entry[6] == inode
    if plus:
        assert all(entry[0] == 0 for *_, entry in seen[:2])  # the dots count as no lookup


def test_listing_that_fails(kernel: Kernel, index: Index) -> None:
    assert kernel.ask(READDIR, node(index, "gone"), read_in(0, 4096)).error == errno.EIO
    assert kernel.ask(READDIR, node(index, "big"), read_in(0, 4096)).error == errno.ENOTDIR
    assert kernel.ask(READDIR, 1, read_in(10**12, 4096))[::2] == (0, b"")
    assert kernel.ask(READDIR, 1, read_in(2**64 - 1, 4096))[::2] == (0, b"")
    assert kernel.ask(READDIR, 1, read_in(0, 10))[::2] == (0, b"")


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


# -- a live swap -----------------------------------------------------------------------------


def test_swap(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    chunks.cached = dict(chunks.all)
    old = node(index, "big")
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == old
    before = kernel.read(old, 0, 4096).body
    tree = Index.anonymous(compile_flist(TreeReader({**TREE, "big": file("other"), "fresh": file("fresh")})))
    grafted = graft(index, tree)
    after = Index.anonymous(grafted.tables)
    kernel.engine.swap(after.map, after.total_size, grafted.replaced)
    assert kernel.engine.lingering_names() == [(0, b"big")]
    held = ENTRY.unpack_from(kernel.lookup(1, b"big").body)
    assert (held[0], held[2]) == (old, 0)  # still the old node, and asked for again each time
    assert ENTRY.unpack_from(kernel.lookup(1, b"fresh").body)[0] == node(after, "fresh")
    assert kernel.read(old, 0, 4096).body == before
    kernel.send(FORGET, old, struct.pack("<Q", 1))  # of two lookups
    kernel.ask(STATFS)
    assert kernel.engine.lingering_names() == [(0, b"big")]
    kernel.send(FORGET, old, struct.pack("<Q", 1))
    kernel.ask(STATFS)
    assert kernel.engine.lingering_names() == []
    new = ENTRY.unpack_from(kernel.lookup(1, b"big").body)
    assert (new[0], new[2]) == (node(after, "big"), FOREVER) and new[0] != old


def test_names_that_the_kernel_never_knew_do_not_linger(kernel: Kernel, index: Index) -> None:
    tree = Index.anonymous(compile_flist(TreeReader({"big": file("other")})))
    grafted = graft(index, tree)
    after = Index.anonymous(grafted.tables)
    kernel.engine.swap(after.map, after.total_size, grafted.replaced)
    assert kernel.engine.lingering_names() == []
    assert ENTRY.unpack_from(kernel.lookup(1, b"bin").body)[0] == 0


def test_batch_forget(kernel: Kernel, index: Index) -> None:
    names = [name for name, _ in index.children(0)]
    for name in names:
        kernel.lookup(1, name)
    forgets = b"".join(struct.pack("<QQ", row + 1, 1) for _, row in index.children(0))
    kernel.send(BATCH_FORGET, 0, struct.pack("<II", len(names), 0) + forgets)
    kernel.ask(STATFS)
    empty = Index.anonymous(compile_flist(TreeReader({})))
    grafted = graft(index, empty)
    kernel.engine.swap(Index.anonymous(grafted.tables).map, 0, grafted.replaced)
    assert kernel.engine.lingering_names() == []


# -- what no kernel sends --------------------------------------------------------------------


def test_unknown_requests(kernel: Kernel) -> None:
    for opcode in (ACCESS, FLUSH, 0, 7, 40, 41, 47, 50, 52, 4096, 0x7FFFFFFF, 0xFFFFFFFF):
        assert kernel.ask(opcode, 1, bytes(64)).error == errno.ENOSYS


def test_requests_without_their_parts(kernel: Kernel) -> None:
    for opcode in (LOOKUP, READ, READDIR, READDIRPLUS, GETXATTR, LISTXATTR, LSEEK, INIT):
        assert kernel.ask(opcode, 1, b"").error == errno.EINVAL
    assert kernel.ask(READ, 1, bytes(23)).error in (errno.EINVAL, errno.EISDIR)
    assert kernel.ask(LOOKUP, 1, b"unended").error == errno.EINVAL


def test_requests_that_nobody_can_answer(kernel: Kernel) -> None:
    kernel.socket.send(b"short")
    kernel.send(STATFS, 1, b"", length=99)  # says another length than it has
    kernel.send(STATFS, 1, b"more", length=40)
    kernel.send(FORGET, 1, b"")
    kernel.send(FORGET, 10**9, struct.pack("<Q", 1))
    kernel.send(BATCH_FORGET, 0, struct.pack("<II", 0xFFFFFFFF, 0))
    kernel.send(INTERRUPT, 0, b"")
    assert kernel.ask(STATFS).error == 0


def test_noise(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    """Random requests of every kind: each is answered or left, and the engine goes on."""
    chance = random.Random(8)
    chunks.cached = dict(chunks.all)
    kernel.socket.settimeout(0.001)
    for _ in range(3000):
        body = chance.randbytes(chance.choice([0, 1, 8, 24, 40, 64, 500]))
        if chance.random() < 0.5:
            body = read_in(
                chance.choice([0, 1, CHUNK_SIZE, 2**40, 2**64 - 1]), chance.choice([0, 1, 4096, 2**32 - 1])
            )
        kernel.send(chance.choice([*range(55), 2**31]), chance.choice([0, 1, 2, 3, 710, 711, 2**63]), body)
        try:
            while True:
                kernel.receive()
        except TimeoutError:
            pass
    kernel.socket.settimeout(10)
    assert kernel.ask(STATFS).error == 0


def test_destroy_and_release(kernel: Kernel) -> None:
    assert kernel.ask(RELEASE, 1, bytes(24)).error == 0
    assert kernel.ask(DESTROY, 0).error == 0


# -- many at once ----------------------------------------------------------------------------


def test_a_generation_that_ends_while_threads_look_for_chunks(index: Index, chunks: Chunks) -> None:
    """One thread is in the cache, one waits to go there, and the snapshot that both would use is to end."""
    chunks.cached = dict(chunks.all)
    inside, go_on = threading.Event(), threading.Event()
    find = chunks.find

    def slow(name: bytes, *, verify: bool = True) -> memoryview | None:
        inside.set()
        assert go_on.wait(10)
        return find(name, verify=verify)

    chunks.find = slow  # type: ignore[method-assign]
    kernel = Kernel(index.map, workers=2, cache=chunks, request=chunks.request)
    kernel.init()
    asked = {kernel.send(READ, node(index, name), read_in(0, 4096)) for name in ("big", "short")}
    assert inside.wait(10)
    renewal = threading.Thread(target=kernel.engine.renew)
    time.sleep(0.1)
    renewal.start()
    time.sleep(0.1)
    go_on.set()
    answers = [kernel.receive() for _ in asked]
    renewal.join(10)
    assert {answer.unique for answer in answers} == asked and [answer.error for answer in answers] == [0, 0]
    kernel.close()
    kernel.engine.renew()
    assert chunks.live == 0


def test_generations_and_swaps_under_readers(index: Index, chunks: Chunks) -> None:
    """Four workers read while generations end and trees are swapped: every byte is right."""
    chunks.cached = dict(chunks.all)
    kernel = Kernel(index.map, workers=4, cache=chunks, request=chunks.request)
    kernel.init()
    inode = node(index, "big")
    whole = chunks.content(inode - 1)
    stop = threading.Event()

    def disturb() -> None:
        mounted = index
        toggle = False
        while not stop.is_set():
            kernel.engine.renew()
            tree = {**TREE, "toggle": file("x")} if toggle else TREE
            toggle = not toggle
            mounted = Index.anonymous(graft(mounted, Index.anonymous(compile_flist(TreeReader(tree)))).tables)
            chunks.index = mounted
            kernel.engine.swap(mounted.map, mounted.total_size)

    thread = threading.Thread(target=disturb)
    thread.start()
    chance = random.Random(2)
    try:
        for _ in range(300):
            asked = {}
            for _ in range(8):
                offset, size = chance.randrange(len(whole)), chance.choice([1, 4096, 100_000])
                asked[kernel.send(READ, inode, read_in(offset, size))] = whole[offset : offset + size]
            for _ in range(8):
                answer = kernel.receive()
                assert answer.error == 0 and answer.body == asked.pop(answer.unique)
    finally:
        stop.set()
        thread.join()
        kernel.close()


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


# -- one engine after another ----------------------------------------------------------------

RESEND = 1 << 63  # what the kernel sets in the number of a request that it sends again


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def again(kernel: Kernel, unique: int, opcode: int, inode: int, body: bytes) -> int:
    """Send a request that a predecessor took, as the kernel does after FUSE_NOTIFY_RESEND."""
    number = unique | RESEND
    kernel.socket.send(IN.pack(IN.size + len(body), opcode, number, inode, 0, 0, 77, 0, 0) + body)
    return number


def test_a_request_that_is_sent_again_is_answered_by_its_new_number(
    kernel: Kernel, chunks: Chunks, index: Index
) -> None:
    inode = node(index, "big")
    number = again(kernel, 4, LOOKUP, 1, b"big\0")
    answer = kernel.receive()
    assert (answer.unique, answer.error) == (number, 0)
    parked = again(kernel, 6, READ, inode, read_in(0, 100))
    wait_for(lambda: chunks.waiting)
    chunks.deliver()
    answer = kernel.receive()
    assert (answer.unique, answer.error, answer.body) == (parked, 0, chunks.content(inode - 1)[:100])


def test_the_same_request_twice_is_harmless(kernel: Kernel, chunks: Chunks, index: Index) -> None:
    inode = node(index, "big")
    first = again(kernel, 6, READ, inode, read_in(0, 100))
    wait_for(lambda: len(chunks.waiting) == 1)
    assert again(kernel, 6, READ, inode, read_in(0, 100)) == first
    wait_for(lambda: len(chunks.waiting) == 2)
    chunks.deliver()
    answer = kernel.receive()
    assert (answer.unique, answer.body) == (first, chunks.content(inode - 1)[:100])
    assert kernel.engine.reads()[3] == 0


def test_a_killed_reader_of_a_request_that_was_sent_again(
    kernel: Kernel, chunks: Chunks, index: Index
) -> None:
    body = read_in(0, 100)
    number = 8 | RESEND
    kernel.socket.send(IN.pack(IN.size + len(body), READ, number, node(index, "big"), 0, 0, 666, 0, 0) + body)
    wait_for(lambda: chunks.waiting)
    kernel.send(INTERRUPT, 0, struct.pack("<Q", number))
    answer = kernel.receive()
    assert (answer.unique, answer.error) == (number, errno.EINTR)


def test_halts_between_two_requests(index: Index, chunks: Chunks) -> None:
    """Threads return, what is parked is answered all the same, and they can go on."""
    kernel = Kernel(index.map, cache=chunks, request=chunks.request)
    kernel.init()
    unique = kernel.send(READ, node(index, "big"), read_in(0, 100))
    wait_for(lambda: chunks.waiting)
    kernel.engine.halt()
    kernel.send(GETATTR)  # in place of the signal: it is answered, and no further request is taken
    kernel.receive()
    wait_for(lambda: kernel.results == [-1])
    kernel.send(GETATTR)
    chunks.deliver()
    assert kernel.receive().unique == unique
    kernel.engine.go_on()
    thread = threading.Thread(target=kernel.engine.serve, args=(0,))
    thread.start()
    assert kernel.receive().error == 0  # the one that had to wait
    kernel.socket.shutdown(socket.SHUT_WR)
    thread.join(10)
    assert not thread.is_alive()
    kernel.close()


def test_goes_on_as_was_agreed_with_another(index: Index, chunks: Chunks) -> None:
    """No INIT comes to a successor."""
    first = Kernel(index.map)
    first.init()
    agreed = first.engine.negotiated
    first.close()
    assert agreed & (1 << 39)
    second = Kernel(index.map, negotiated=agreed)
    assert second.engine.resends
    assert second.engine.negotiated == agreed
    assert second.ask(OPEN, node(index, "big")).error == errno.ENOSYS
    second.close()


def test_counts_what_the_kernel_holds_across_engines() -> None:
    """A name that a swap replaced lingers as long as the kernel knows its node, whoever told the kernel of it."""
    old = Index.anonymous(compile_flist(TreeReader({"a": file("old"), "b": file("b")})))
    tree = Index.anonymous(compile_flist(TreeReader({"a": file("new"), "b": file("other")})))
    grafted = graft(old, tree)
    new = Index.anonymous(grafted.tables)
    counts = os.memfd_create("counts")
    held = old.resolve(b"a")
    assert held is not None
    first = Kernel(old.map, counts=counts)
    first.init()
    first.lookup(1, b"a")
    first.close()
    second = Kernel(new.map, counts=counts, replaced=grafted.replaced)
    assert second.engine.lingering_names() == [(0, b"a")]
    assert second.engine.lingering_nodes() == [((0, b"a"), held)]
    assert ENTRY.unpack_from(second.lookup(1, b"a").body)[0] == held + 1
    second.engine.forgotten(held)  # counted twice by now, and known to nobody
    assert second.engine.lingering_names() == []
    assert ENTRY.unpack_from(second.lookup(1, b"a").body)[0] != held + 1
    second.close()
    os.close(counts)
