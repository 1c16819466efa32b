"""Compile a flist's records into the tables of an index.

Role: the only consumer of `FlistReader`, whatever the generation, and of several of them laid over
each other (`zerofs.flist.layers`).  One pass, breadth first, one record in memory at a time; single
thread, no locks.
"""

from __future__ import annotations

import logging
import struct
from binascii import unhexlify
from collections import deque
from typing import NamedTuple

from zerofs.errors import FlistCorruptError, FlistTooLargeError
from zerofs.flist.index import CHILD, CHUNK, FORM_HEX, FORM_NAMES, MISSING, NODE, Tables
from zerofs.flist.model import DIRECTORY_SIZE, Attributes, ChunkRef, Directory, Entry, FlistReader, Kind

log = logging.getLogger(__name__)

_LOWER_HEX = frozenset(b"0123456789abcdef")
_MISSING_ATTRIBUTES = Attributes(0o400, 1000, 1000, 0, 0)  # what an entry without an ACI gets


def compile_flist(reader: FlistReader) -> Tables:
    """The tables of everything below the root of `reader`.

    Raises FlistCorruptError where the root's record is missing or a record cannot be read.
    """
    return _Compiler(reader).run()


class _Pending(NamedTuple):
    """A directory that has a row but whose record was not read yet."""

    row: int
    parent: int
    key: bytes
    path: bytes


class NameTable:
    """The bytes of names and targets, each distinct one once."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self._offsets: dict[bytes, int] = {}

    def add(self, name: bytes) -> int:
        """The offset of `name` in the section."""
        offset = self._offsets.get(name)
        if offset is None:
            offset = self._offsets[name] = len(self.content)
            self.content += name
            if len(self.content) > 0xFFFFFFFF:
                raise FlistTooLargeError("the names of the flist take more than 4 GiB")
        return offset


class ChunkTable:
    """The distinct chunks, numbered as they come; the most bytes expected of each."""

    def __init__(self, names: NameTable) -> None:
        self._names = names
        self._numbers: dict[ChunkRef, int] = {}
        self._sizes: list[int] = []

    def add(self, ref: ChunkRef, size: int) -> int:
        """The number of the chunk `ref`, of which a file expects `size` bytes."""
        number = self._numbers.setdefault(ref, len(self._sizes))
        if number == len(self._sizes):
            self._sizes.append(size)
        elif size > self._sizes[number]:
            self._sizes[number] = size
        return number

    def rows(self) -> bytes:
        return b"".join(
            CHUNK.pack(id_field, key_field, id_form, key_form, 0, size)
            for (ref, size) in zip(self._numbers, self._sizes, strict=True)
            for (id_field, id_form), (key_field, key_form) in [(self._field(ref.id), self._field(ref.key))]
        )

    def _field(self, value: bytes) -> tuple[bytes, int]:
        """The 32 bytes that stand for `value` in a row, and their form."""
        if len(value) <= 32:
            return value, len(value)
        if len(value) == 64 and _LOWER_HEX.issuperset(value):
            return unhexlify(value), FORM_HEX
        return struct.pack("<QI", self._names.add(value), len(value)), FORM_NAMES


class _Compiler:
    def __init__(self, reader: FlistReader) -> None:
        self._reader = reader
        self._names = NameTable()
        self._chunks = ChunkTable(self._names)
        self._nodes: list[bytes] = []
        self._children: list[bytes] = []
        self._refs: list[int] = []
        self._expanded: set[bytes] = set()
        self._missing = 0

    def run(self) -> Tables:
        root = self._reader.root()
        directory = self._reader.directory(root)
        if directory is None:
            raise FlistCorruptError("the flist holds no record of its root directory")
        self._nodes.append(b"")
        queue = deque([_Pending(0, 0, root, b"")])
        while queue:
            self._expand(queue.popleft(), queue)
        if self._missing:
            log.warning("%d directories have no record of their own: reading them is EIO", self._missing)
        return Tables(
            b"".join(self._nodes),
            b"".join(self._children),
            self._names.content,
            struct.pack(f"<{len(self._refs)}I", *self._refs),
            self._chunks.rows(),
        )

    def _expand(self, pending: _Pending, queue: deque[_Pending]) -> None:
        directory = self._record(pending)
        if directory is None:
            self._missing += 1
            self._nodes[pending.row] = self._directory_row(pending, _MISSING_ATTRIBUTES, 0, MISSING, 2)
            return
        entries: dict[bytes, Entry] = {}
        for entry in directory.entries:
            entries.setdefault(entry.name, entry)  # of equal names the first wins
        first = len(self._children)
        subdirectories = 0
        for name in sorted(entries):
            entry = entries[name]
            row = len(self._nodes)
            if entry.kind is Kind.DIR:
                subdirectories += 1
                self._nodes.append(b"")
                path = pending.path + b"/" + name if pending.path else name
                queue.append(_Pending(row, pending.row, entry.key, path))
            else:
                self._nodes.append(self._entry_row(entry, pending.row))
            self._children.append(CHILD.pack(self._names.add(name), row, len(name), entry.kind, 0))
        self._nodes[pending.row] = self._directory_row(
            pending, directory.attributes, first, len(entries), 2 + subdirectories
        )

    def _record(self, pending: _Pending) -> Directory | None:
        """The record of a directory; a key met again (a cycle, or a tree that would grow without end) has none."""
        if pending.key in self._expanded:
            return None
        self._expanded.add(pending.key)
        return self._reader.directory(pending.key)

    def _directory_row(
        self, pending: _Pending, attributes: Attributes, first: int, count: int, nlink: int
    ) -> bytes:
        mode, uid, gid, mtime, ctime = attributes
        mode = Kind.DIR | (mode & 0o7777)
        return NODE.pack(
            DIRECTORY_SIZE, mtime, ctime, first, count, mode, uid, gid, nlink, 0, 0, pending.parent
        )

    def _entry_row(self, entry: Entry, parent: int) -> bytes:
        mode, uid, gid, mtime, ctime = entry.attributes
        size, first, count, rdev, block_size = entry.size, 0, 0, 0, 0
        if entry.kind is Kind.FILE:
            block_size = entry.block_size
            first, count = self._add_refs(entry)
        elif entry.kind is Kind.LINK:
            size = count = len(entry.target)
            first = self._names.add(entry.target)
        else:
            size = 0
            rdev = _encode_device(*entry.device)
        mode = entry.kind | (mode & 0o7777)
        return NODE.pack(size, mtime, ctime, first, count, mode, uid, gid, 1, rdev, block_size, parent)

    def _add_refs(self, entry: Entry) -> tuple[int, int]:
        """(first ref, count) of a file; chunks beyond its size are left out."""
        first = len(self._refs)
        left = entry.size
        for ref in entry.chunks:
            if left <= 0 or not entry.block_size:
                break
            self._refs.append(self._chunks.add(ref, min(left, entry.block_size)))
            left -= entry.block_size
        return first, len(self._refs) - first


def _encode_device(major: int, minor: int) -> int:
    """A device number as the kernel's 32 bits: 12 of major, 20 of minor."""
    return (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & 0xFFF00) << 12)
