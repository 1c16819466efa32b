"""Whether the pages of LMDB's trees fit together: looked at before a file is opened whose last user was killed.

Place: below `environment`.  LMDB believes what it reads when it writes: a list of free pages with a flipped bit ends
the process by an assertion, and the next one, and the one after it.  So a file that was left without a goodbye is gone
over once, by who opens it alone: the list of free pages, and the trees where they are small enough for that to take a
moment.  What it looks like is in `lmdb_pages.h`.

Each page is where it says, each node within its page, names are in order and between those above them, what is counted
is there, and no page is part of two things.  Entries themselves have checksums, and of their pages only the headers of
the first are looked at, in a small cache: when LMDB frees them it goes by those.

Pages are read from the file, not from a map, so that one which the disk cannot give is an error.  Threads: the
caller's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

MOST_VALUES = 1024  # entries with pages of their own
MOST_PAGES = 256  # of the trees; those of larger ones are left to LMDB's own checks
_HEADER, _NODE, _TREE = struct.Struct("<QHHHH"), struct.Struct("<HHHH"), struct.Struct("<IHHQQQQQ")
_META_AT, _FREE_AT, _MAIN_AT, _LAST_AT, _META_END = 16, 40, 88, 136, 152
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _VALUE = 1, 2, 4
_BIG, _TREE_NODE = 1, 2  # of a leaf's node: its value lies in pages of its own, or is a tree
_NO_PAGE = 2**64 - 1
_DEEPEST = 32
_LAST = b"\xff" * 512  # behind every name


class _Tree(NamedTuple):
    page_size: int  # only in the first tree of a meta page
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


class _Node(NamedTuple):
    name: bytes
    flags: int
    below: int  # of a branch: the page
    size: int  # of a leaf: bytes of the value
    value: bytes  # of a leaf: as far as it lies in the page


class _MisfitError(Exception):
    """Says what does not fit."""


def find_misfit(data: Path) -> str | None:
    """What does not fit together in the file of a cache that nobody has open; None where all does, or there is none."""
    if data.is_symlink() or not data.is_file() or not data.stat().st_size:
        return None
    try:
        with data.open("rb", buffering=0) as file:
            _Walk(file.fileno()).go()
    except _MisfitError as misfit:
        return f"its pages do not fit together: {misfit}"
    except OSError as error:
        return f"its pages cannot be read: {error.strerror}"
    return None


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise _MisfitError(what)


class _Walk:
    """One pass over what the last transaction left."""

    def __init__(self, file: int) -> None:
        self._file = file
        first = os.pread(file, _META_END, 0)
        _expect(len(first) == _META_END, "the file is too short")
        self._size: int = _TREE.unpack_from(first, _FREE_AT)[0]
        _expect(self._size in [1 << bits for bits in range(8, 16)], "the size of a page")
        second = os.pread(file, _META_END, self._size)
        _expect(len(second) == _META_END, "the file is too short")
        for meta in (first, second):
            _expect(struct.unpack_from("<II", meta, _META_AT) == (_MAGIC, _VERSION), "a meta page")
        meta = max(first, second, key=lambda each: struct.unpack_from("<Q", each, _LAST_AT + 8))
        self._last, self._transaction = struct.unpack_from("<QQ", meta, _LAST_AT)
        _expect(
            2 <= self._last + 1 <= 2 + os.fstat(file).st_size // self._size + 2**16, "the number of pages"
        )
        self._free = _Tree._make(_TREE.unpack_from(meta, _FREE_AT))
        self._main = _Tree._make(_TREE.unpack_from(meta, _MAIN_AT))
        self._taken = bytearray(self._last + 1)
        self._taken[:2] = b"\1\1"
        self._values = 0

    def go(self) -> None:
        """Raises _MisfitError, or OSError where a page cannot be had."""
        trees = [self._main]
        for node in self._leaves(self._main):
            _expect(node.flags == _TREE_NODE and node.size == _TREE.size, "the value of a database")
            trees.append(_Tree._make(_TREE.unpack(node.value)))
        small = sum(tree.branches + tree.leaves for tree in trees) <= MOST_PAGES
        if small:
            for tree in trees[1:]:
                for node in self._leaves(tree):
                    _expect(node.flags in (0, _BIG), "the kind of an entry")
        for node in list(self._leaves(self._free)):
            self._go_over_list(node)

    def _go_over_list(self, node: _Node) -> None:
        """A list of free pages, the largest number first."""
        _expect(len(node.name) == 8 and node.size >= 8 and node.size % 8 == 0, "a list of free pages")
        _expect(node.size <= 8 * (self._last + 2), "how many pages are free")
        _expect(int.from_bytes(node.name, "little") <= self._transaction, "the transaction of free pages")
        value = node.value
        if node.flags == _BIG:
            at = int.from_bytes(value, "little") * self._size + _HEADER.size
            value = os.pread(self._file, node.size, at)
        _expect(len(value) == node.size, "a list of free pages")
        count, *pages = struct.unpack(f"<{node.size // 8}Q", value)
        _expect(count <= len(pages), "how many pages are free")
        before = self._last + 1
        for page in pages[:count]:
            _expect(page < before, "the order of free pages")
            self._take(page, 1)
            before = page

    def _take(self, page: int, count: int) -> None:
        """They are part of nothing else."""
        _expect(page >= 2 and page + count <= self._last + 1, "the number of a page")
        _expect(self._taken.find(1, page, page + count) < 0, f"page {page} is part of two things")
        self._taken[page : page + count] = b"\1" * count

    def _leaves(self, tree: _Tree) -> Iterator[_Node]:
        """The entries of a tree, in order."""
        _expect(tree.depth <= _DEEPEST, "the depth of a tree")
        if tree.root == _NO_PAGE:
            _expect(tree.depth == tree.entries == 0, "an empty tree")
            return
        by_number = tree is self._free
        branches = leaves = overflows = entries = 0
        pending = [(tree.root, tree.depth, b"", _LAST)]
        while pending:
            page, depth, low, high = pending.pop()
            nodes = list(self._nodes(page, is_leaf=depth == 1))
            self._check_order(nodes, low, high, is_leaf=depth == 1, by_number=by_number)
            if depth == 1:
                leaves, entries = leaves + 1, entries + len(nodes)
                for node in nodes:
                    overflows += self._take_value(node)
                    yield node
                continue
            branches += 1
            names = [low, *(node.name for node in nodes[1:]), high]
            pending += reversed(
                [(node.below, depth - 1, names[at], names[at + 1]) for at, node in enumerate(nodes)]
            )
        counted = (branches, leaves, overflows, entries)
        _expect(counted == (tree.branches, tree.leaves, tree.overflows, tree.entries), "what a tree counts")

    def _check_order(
        self, nodes: list[_Node], low: bytes, high: bytes, *, is_leaf: bool, by_number: bool
    ) -> None:
        def place(name: bytes) -> bytes:
            return name[::-1] if by_number and name != _LAST else name

        names = [place(node.name) for node in (nodes if is_leaf else nodes[1:])]
        _expect(all(one < two for one, two in pairwise(names)), "the order of names")
        if names:
            _expect(place(low) <= names[0] and names[-1] < place(high), "the names below a page")

    def _take_value(self, node: _Node) -> int:
        """How many pages of its own an entry's value has."""
        if node.flags != _BIG:
            return 0
        count = (_HEADER.size - 1 + node.size) // self._size + 1
        first = int.from_bytes(node.value, "little")
        self._take(first, count)
        self._values += 1
        if self._values <= MOST_VALUES:
            header = os.pread(self._file, _HEADER.size, first * self._size)
            number, _, kind, low, high = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
            _expect((number, kind, low | high << 16) == (first, _VALUE, count), "the pages of a value")
        return count

    def _nodes(self, page: int, *, is_leaf: bool) -> Iterator[_Node]:
        self._take(page, 1)
        data = os.pread(self._file, self._size, page * self._size)
        _expect(len(data) == self._size, "the file is too short")
        number, _, kind, lower, upper = _HEADER.unpack_from(data)
        _expect(number == page and kind == (_LEAF if is_leaf else _BRANCH), "what a page is")
        count = (lower - _HEADER.size) // 2
        _expect(lower % 2 == 0 and (1 if is_leaf else 2) <= count, "the number of nodes")
        _expect(lower <= upper <= self._size, "the bounds of nodes")
        total = 0
        for at in struct.unpack_from(f"<{count}H", data, _HEADER.size):
            node = self._node(data, at, upper, is_leaf=is_leaf)
            total += -(-(_NODE.size + len(node.name) + len(node.value)) // 2) * 2
            yield node
        _expect(total == self._size - upper, "the room of nodes")

    def _node(self, data: bytes, at: int, upper: int, *, is_leaf: bool) -> _Node:
        _expect(upper <= at <= self._size - _NODE.size and at % 2 == 0, "the place of a node")
        low, high, flags, name_size = _NODE.unpack_from(data, at)
        size = low | high << 16
        begin = at + _NODE.size + name_size
        here = 0 if not is_leaf else 8 if flags == _BIG else size
        _expect(begin + here <= self._size, "the size of a node")
        name = data[at + _NODE.size : begin]
        return _Node(name, flags if is_leaf else 0, size | flags << 32, size, data[begin : begin + here])
