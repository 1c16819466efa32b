"""The tables of an index as the layout describes them, made from objects, one entry at a time."""

from __future__ import annotations

import os
import re
import struct
from collections import deque

from zerofs.flist.index import CHILD, CHUNK, FORM_HEX, FORM_NAMES, MISSING, NODE, Tables
from zerofs.flist.model import DIRECTORY_SIZE, Attributes, ChunkRef, Entry, FlistReader, Kind


def plain_tables(reader: FlistReader) -> Tables:
    return _Plain().run(reader)


class _Plain:
    def __init__(self) -> None:
        self.names = b""
        self.offsets: dict[bytes, int] = {}
        self.chunks: dict[ChunkRef, list[int]] = {}  # number, size
        self.nodes: list[bytes] = [b""]
        self.children: list[bytes] = []
        self.refs: list[int] = []

    def run(self, reader: FlistReader) -> Tables:
        queue, met = deque([(0, 0, reader.root())]), set()
        while queue:
            row, parent, key = queue.popleft()
            directory = None if key in met else reader.directory(key)
            met.add(key)
            if directory is None:
                owner = Attributes(0o400, 1000, 1000, 0, 0)
                self.nodes[row] = node(Kind.DIR, owner, DIRECTORY_SIZE, 0, MISSING, parent, nlink=2)
                continue
            entries: dict[bytes, Entry] = {}
            for entry in directory.entries:
                entries.setdefault(entry.name, entry)
            first, nlink = len(self.children), 2
            for name, entry in sorted(entries.items()):
                child = len(self.nodes)
                if entry.kind is Kind.DIR:
                    nlink += 1
                    queue.append((child, row, entry.key))
                    self.nodes.append(b"")
                else:
                    self.nodes.append(self.leaf(entry, row))
                self.children.append(CHILD.pack(self.name(name), child, len(name), entry.kind, 0))
            count = len(self.children) - first
            self.nodes[row] = node(
                Kind.DIR, directory.attributes, DIRECTORY_SIZE, first, count, parent, nlink=nlink
            )
        rows = b"".join(
            CHUNK.pack(*fields[0::2], *fields[1::2], 0, size)
            for ref, (_, size) in self.chunks.items()
            for fields in [(*self.field(ref.id), *self.field(ref.key))]
        )
        refs = struct.pack(f"<{len(self.refs)}I", *self.refs)
        return Tables(b"".join(self.nodes), b"".join(self.children), self.names, refs, rows)

    def leaf(self, entry: Entry, parent: int) -> bytes:
        if entry.kind is Kind.LINK:
            length = len(entry.target)
            return node(entry.kind, entry.attributes, length, self.name(entry.target), length, parent)
        if entry.kind is not Kind.FILE:
            return node(entry.kind, entry.attributes, 0, 0, 0, parent, rdev=os.makedev(*entry.device))
        first, left = len(self.refs), entry.size
        for ref in entry.chunks:
            if left <= 0:
                break
            number, size = self.chunks.setdefault(ref, [len(self.chunks), 0])
            self.chunks[ref][1] = max(size, min(left, entry.block_size))
            self.refs.append(number)
            left -= entry.block_size
        count = len(self.refs) - first
        block = entry.block_size
        return node(entry.kind, entry.attributes, entry.size, first, count, parent, block_size=block)

    def name(self, name: bytes) -> int:
        if name not in self.offsets:
            self.offsets[name] = len(self.names)
            self.names += name
        return self.offsets[name]

    def field(self, value: bytes) -> tuple[bytes, int]:
        if len(value) <= 32:
            return value, len(value)
        if re.fullmatch(rb"[0-9a-f]{64}", value):
            return bytes.fromhex(value.decode()), FORM_HEX
        return struct.pack("<QI", self.name(value), len(value)), FORM_NAMES


def node(
    kind: Kind,
    attributes: Attributes,
    size: int,
    first: int,
    count: int,
    parent: int,
    *,
    nlink: int = 1,
    rdev: int = 0,
    block_size: int = 0,
) -> bytes:
    mode, uid, gid, mtime, ctime = attributes
    numbers = (size, mtime, ctime, first, count, kind | mode, uid, gid, nlink, rdev, block_size, parent)
    return NODE.pack(*numbers)
