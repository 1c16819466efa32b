"""The kernel's protocol: whatever comes over the channel, every request is answered once and the engine goes on.

An input is requests one after the other: a byte of flags, the operation, the node, the length of the body, the body.
"""

from __future__ import annotations

import struct
from functools import cache

from tests.engine import kernel
from tests.engine.kernel import IN, OUT, Kernel
from tests.fuzz.place import Pieces
from tests.index.trees import TreeReader, device, file, link
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index
from zerofs.flist.model import CHUNK_SIZE, Kind

_SILENT = (kernel.FORGET, kernel.BATCH_FORGET, kernel.INTERRUPT)
_LIES_LENGTH, _RAW_NODE, _WIDE_OPCODE, _LONG = 1, 2, 4, 8
_LAST = 2**64 - 2


@cache
def _index() -> Index:
    tree = {
        "dir": {"file": file("x", size=5), **{f"name{n}": file("") for n in range(40)}},
        "link": link("dir/file"),
        "null": device(Kind.CHARDEV, 1, 3),
        "gone": None,
        "big": file("big", size=CHUNK_SIZE + 9),
        "short": file("short", size=CHUNK_SIZE * 3, chunks=1),
    }
    return Index.anonymous(compile_flist(TreeReader(tree)))


def target(data: bytes) -> None:
    index = _index()
    reports: list[Exception] = []
    fake = Kernel(
        index.map,
        request=lambda tables, number, done: done(
            number, bytes(index.chunk(number).size) if number % 2 else None
        ),
        report=reports.append,
    )
    try:
        expected: dict[int, bool] = {}
        for unique, request in enumerate(_requests(data), 1):
            size, opcode = struct.unpack_from("<II", request.ljust(8, b"\0"))
            whole = len(request) >= IN.size and size == len(request)
            if whole:
                expected[unique] = opcode not in _SILENT
            fake.socket.send(request.replace(b"UNIQUE__", struct.pack("<Q", unique)))
            _collect(fake, expected)
        _collect(fake, expected)
        assert not any(expected.values())
    finally:
        fake.close()
    assert fake.results == [0]


def _collect(fake: Kernel, expected: dict[int, bool]) -> None:
    """Take what was answered so far: a question that is always answered ends it."""
    fake.socket.send(IN.pack(IN.size, kernel.GETATTR, _LAST, 1, 0, 0, 1, 0, 0))
    while True:
        message = fake.socket.recv(2 << 20)
        length, error, unique = OUT.unpack_from(message)
        assert length == len(message) and -1000 < error <= 0
        if unique == _LAST:
            assert error == 0 and length == OUT.size + 16 + kernel.ATTR.size
            return
        assert expected.pop(unique), "an answer that nobody waits for"


def _requests(data: bytes) -> list[bytes]:
    pieces = Pieces(data)
    made = []
    while pieces and len(made) < 40:
        flags, opcode = pieces.number(1), pieces.number(1)
        if flags & _WIDE_OPCODE:
            opcode = pieces.number(4)
        node = pieces.number(8) if flags & _RAW_NODE else pieces.number(1)
        body = pieces.take(pieces.number(2) % 4096 if flags & _LONG else pieces.number(1))
        size = IN.size + len(body)
        if flags & _LIES_LENGTH:
            size = pieces.number(4)
        # the number is put in later: the input does not choose it
        head = IN.pack(size, opcode, 0, node, 0, 0, 1, 0, 0)
        made.append(head[:8] + b"UNIQUE__" + head[16:] + body.replace(b"UNIQUE__", b"unique__"))
    if len(made) > 1 and data[0] & 0x80:
        made[-1] = made[-1][: data[-1] or 1]
    return made


def samples() -> list[bytes]:
    def request(opcode: int, node: int, body: bytes = b"", flags: int = 0) -> bytes:
        return bytes((flags, opcode, node, len(body))) + body

    read = kernel.read_in
    node = {
        _index().resolve(name): name for name in (b"dir", b"link", b"big", b"short", b"gone", b"dir/file")
    }
    asks = [
        request(kernel.INIT, 0, struct.pack("<IIIII", 7, 38, 1 << 17, 0xFFFFFFFF, 0xFFFFFFFF)),
        request(kernel.LOOKUP, 1, b"dir\0"),
        request(kernel.LOOKUP, 1, b"..\0"),
        request(kernel.STATFS, 1),
        request(kernel.GETXATTR, 1, struct.pack("<II", 64, 0) + b"user.x\0"),
        request(kernel.LISTXATTR, 1, struct.pack("<II", 0, 0)),
        request(kernel.FORGET, 2, struct.pack("<Q", 1)),
        request(kernel.BATCH_FORGET, 0, struct.pack("<IIQQQQ", 2, 0, 2, 1, 3, 2**63)),
        request(kernel.INTERRUPT, 0, struct.pack("<Q", 4)),
        request(kernel.DESTROY, 0),
    ]
    for row in node:
        asks += [
            request(kernel.GETATTR, row + 1),
            request(kernel.OPEN, row + 1, bytes(8)),
            request(kernel.READ, row + 1, read(0, 4096)),
            request(kernel.READ, row + 1, read(CHUNK_SIZE - 1, 131072)),
            request(kernel.READDIR, row + 1, read(0, 512)),
            request(kernel.READDIRPLUS, row + 1, read(3, 65536)),
            request(kernel.READLINK, row + 1),
            request(kernel.LSEEK, row + 1, struct.pack("<QQII", 0, 1, 4, 0)),
        ]
    return [b"".join(asks[at : at + 8]) for at in range(0, len(asks), 8)]
