"""A live swap: the tree of one index, under the node ids of another that is mounted.

The kernel, and the overlay above it, know nodes by their ids, which are positions in the index.  So a
swap does not replace the index by another with other positions: it keeps every row of the mounted one,
moves the rows that changed, and appends what is new.

- A path whose node did not change (same type, attributes and content) keeps its id.
- A directory that stays a directory keeps its id too; its row is rewritten.
- Anything else gets a new id at the end, and the old row stays (of a directory with all that is below it),
  so that whoever holds the old file open goes on reading its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from zerofs.flist._tables import ChunkTable, NameTable
from zerofs.flist.index import CHILD, MISSING, NODE, Index, Node, Tables
from zerofs.flist.model import ChunkRef, Kind


class Graft(NamedTuple):
    """The tables to mount, and what the kernel has to forget."""

    tables: Tables
    entries: list[tuple[int, bytes]]  # (row of the directory, name) that is new, gone or replaced
    rows: list[int]  # directories whose attributes or listing changed
    replaced: list[tuple[tuple[int, bytes], int]]  # (entry, the row that it led to before)


def graft(base: Index, tree: Index) -> Graft:
    """Give the tree of `tree` the ids of `base` (which may be the result of a graft itself)."""
    return _Grafter(base, tree).run()


class _Grafter:
    def __init__(self, base: Index, tree: Index) -> None:
        self._base, self._tree = base, tree
        old = base.sections()
        self._nodes = bytearray(old.nodes)
        self._children = bytearray(old.children)
        self._refs = bytearray(old.refs)
        self._names = NameTable(bytes(old.names))
        self._chunks = ChunkTable(self._names)
        for number in range(base.chunk_count):
            chunk = base.chunk(number)
            self._chunks.add(ChunkRef(chunk.id, chunk.key), chunk.size)
        self._graft = Graft(old, [], [], [])

    def run(self) -> Graft:
        self._directories()
        tables = Tables(
            self._nodes, self._children, self._names.content, self._refs, self._chunks.rows()
        )  # rows() comes last: it may add to the names
        return self._graft._replace(tables=tables)

    def _directories(self) -> None:
        """Write the rows and children of every directory of the tree."""
        pending: list[tuple[int, int, int, int | None]] = [(0, 0, 0, 0)]
        while pending:
            row, parent, new_row, old_row = pending.pop()
            before = dict(self._base.children(old_row)) if old_row is not None else {}
            changed = False
            entries: list[tuple[bytes, int, Kind]] = []
            for name, child in self._tree.children(new_row):
                node = self._tree.node(child)
                old = before.pop(name, None)
                kept = old is not None and self._keeps(old, child, node)
                if kept and old is not None:
                    target = old
                else:
                    target = self._append(child, node, row)
                    changed = True
                    self._graft.entries.append((row, name))
                    if old is not None:
                        self._graft.replaced.append(((row, name), old))
                if node.kind is Kind.DIR:
                    pending.append((target, row, child, old if kept else None))
                entries.append((name, target, node.kind))
            for name, old in before.items():
                changed = True
                self._graft.entries.append((row, name))
                self._graft.replaced.append(((row, name), old))
            node = self._tree.node(new_row)
            if changed or old_row is None:
                first = self._add_children(entries)
            else:
                first = self._base.node(old_row).first
            count = MISSING if node.length == MISSING else len(entries)
            node = node._replace(first=first, length=count, parent=parent)
            if old_row is not None and (changed or not _same_attributes(self._base.node(old_row), node)):
                self._graft.rows.append(row)
            self._put(row, node)

    def _add_children(self, entries: Sequence[tuple[bytes, int, Kind]]) -> int:
        first = len(self._children) // CHILD.size
        for name, row, kind in entries:
            self._children += CHILD.pack(self._names.add(name), row, len(name), kind, 0)
        return first

    def _keeps(self, old: int, new: int, node: Node) -> bool:
        """Whether the old row goes on standing for the new node."""
        before = self._base.node(old)
        if before.kind is not node.kind:
            return False
        if node.kind is Kind.DIR:
            return True
        if not _same_attributes(before, node):
            return False
        if node.kind is Kind.LINK:
            return self._base.target(old) == self._tree.target(new)
        return _contents(self._base, old) == _contents(self._tree, new)

    def _append(self, new: int, node: Node, parent: int) -> int:
        row = len(self._nodes) // NODE.size
        first, count = 0, node.length
        if node.kind is Kind.LINK:
            first = self._names.add(self._tree.target(new))
        elif node.kind is Kind.FILE:
            first = len(self._refs) // 4
            numbers = [
                self._chunks.add(ChunkRef(chunk.id, chunk.key), chunk.size)
                for chunk in map(self._tree.chunk, self._tree.refs(new))
            ]
            self._refs += struct.pack(f"<{count}I", *numbers)
        self._nodes += bytes(NODE.size)
        self._put(row, node._replace(first=first, parent=parent))
        return row

    def _put(self, row: int, node: Node) -> None:
        NODE.pack_into(
            self._nodes, row * NODE.size,
            node.size, node.mtime, node.ctime, node.first, node.length, node.mode,
            node.uid, node.gid, node.nlink, node.rdev, node.block_size, node.parent,
        )  # fmt: skip


def _same_attributes(one: Node, other: Node) -> bool:
    return one[:9] == other[:9] and one.length == other.length


def _contents(index: Index, row: int) -> list[tuple[bytes, bytes]]:
    return [index.chunk(number)[:2] for number in index.refs(row)]
