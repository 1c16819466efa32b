"""A fake kernel: packs requests of the FUSE protocol, sends them over a socket pair, takes answers apart.

The structs are written down here once more, from the protocol's field numbers, so that the engine is held to the
format and not to its own idea of it.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import NamedTuple

from zerofs._fast import Engine, IndexMap

LOOKUP, FORGET, GETATTR, SETATTR, READLINK = 1, 2, 3, 4, 5
MKNOD, MKDIR, UNLINK, OPEN, READ, WRITE, STATFS, RELEASE = 8, 9, 10, 14, 15, 16, 17, 18
GETXATTR, LISTXATTR, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 22, 23, 25, 26, 27, 28, 29
ACCESS, INTERRUPT, DESTROY, BATCH_FORGET, READDIRPLUS, LSEEK = 34, 36, 38, 42, 44, 46

IN = struct.Struct("<IIQQIIIHH")
OUT = struct.Struct("<IiQ")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")
READ_IN = struct.Struct("<QQIIQII")


class Answer(NamedTuple):
    error: int
    unique: int
    body: bytes


class Kernel:
    """An engine with `workers` threads, and the other end of its channel."""

    def __init__(self, index: IndexMap, *, workers: int = 1, **keywords: object) -> None:
        options = {
            "cache": None,
            "request": lambda index, number, done: done(number, None),
            "report": lambda error: None,
            "kill_pending": lambda pid: False,
            **keywords,
        }
        self.socket, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        for end in (self.socket, channel):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._channel = channel
        self.engine = Engine(channel.fileno(), index, **options)  # type: ignore[arg-type]
        self.results: list[int] = []
        numbers = [self.engine.add_worker() for _ in range(workers)]
        self._threads = [threading.Thread(target=self._serve, args=(number,)) for number in numbers]
        for thread in self._threads:
            thread.start()
        self._unique = 0

    def _serve(self, number: int) -> None:
        self.results.append(self.engine.serve(number))

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self.socket.close()
        self._channel.close()

    def send(
        self, opcode: int, node: int = 1, body: bytes = b"", *, length: int | None = None, pid: int = 77
    ) -> int:
        """Send a request; returns its unique number."""
        self._unique += 2
        size = IN.size + len(body) if length is None else length
        self.socket.send(IN.pack(size, opcode, self._unique, node, 0, 0, pid, 0, 0) + body)
        return self._unique

    def receive(self) -> Answer:
        message = self.socket.recv(2 << 20)
        length, error, unique = OUT.unpack_from(message)
        assert length == len(message)
        return Answer(-error, unique, message[OUT.size :])

    def ask(self, opcode: int, node: int = 1, body: bytes = b"") -> Answer:
        """Send a request and return its answer."""
        unique = self.send(opcode, node, body)
        answer = self.receive()
        assert answer.unique == unique
        return answer

    def init(
        self, flags: int = 0xFFFFFFFF, flags2: int = 0xFFFFFFFF, minor: int = 40, major: int = 7
    ) -> Answer:
        return self.ask(INIT, 0, struct.pack("<IIIII11I", major, minor, 1 << 17, flags, flags2, *[0] * 11))

    def lookup(self, node: int, name: bytes) -> Answer:
        return self.ask(LOOKUP, node, name + b"\0")

    def read(self, node: int, offset: int, size: int) -> Answer:
        return self.ask(READ, node, read_in(offset, size))


def read_in(offset: int, size: int) -> bytes:
    return READ_IN.pack(0, offset, size, 0, 0, 0, 0)


def dirents(body: bytes, *, plus: bool) -> list[tuple[bytes, int, int, int, tuple[int, ...]]]:
    """(name, inode, next offset, type, entry) of every entry of a listing."""
    entries = []
    at = 0
    while at < len(body):
        entry: tuple[int, ...] = ()
        if plus:
            entry = ENTRY.unpack_from(body, at) + ATTR.unpack_from(body, at + ENTRY.size)
            at += ENTRY.size + ATTR.size
        inode, offset, length, kind = struct.unpack_from("<QQII", body, at)
        name = body[at + 24 : at + 24 + length]
        entries.append((name, inode, offset, kind, entry))
        at += (24 + length + 7) & ~7
    return entries
