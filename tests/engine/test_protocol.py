"""The fast engine, request by request, against a fake kernel: each answer byte by byte."""

from __future__ import annotations

import errno
import random
import stat
import struct

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
)
from tests.engine.support import FOREVER, Chunks, node
from zerofs.flist.index import Index
from zerofs.flist.model import CHUNK_SIZE

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
