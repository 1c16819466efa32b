"""Where things lie in LMDB's file, so that a test can spoil one of them; the layout is in `kernels/lmdb_pages.h`."""

from __future__ import annotations

import struct
from pathlib import Path

PAGE = 4096
BRANCH, LEAF, OVERFLOW = 1, 2, 4


class Pages:
    """The bytes of a file whose last transaction is to be spoilt.  All places are offsets in the file."""

    def __init__(self, data: Path) -> None:
        self.bytes = bytearray(data.read_bytes())
        metas = [self.get("Q", at + 144) for at in (0, PAGE)]
        self.meta = PAGE * metas.index(max(metas))  # its free tree is at 40, its main tree at 88

    def get(self, kind: str, at: int) -> int:
        value: int = struct.unpack_from(f"<{kind}", self.bytes, at)[0]
        return value

    def put(self, kind: str, at: int, value: int) -> None:
        struct.pack_into(f"<{kind}", self.bytes, at, value)

    def root(self, tree: int) -> int:
        """The first page of the tree whose numbers are at `tree`."""
        return PAGE * self.get("Q", tree + 40)

    def nodes(self, page: int) -> list[int]:
        count = (self.get("H", page + 12) - 16) // 2
        return [page + self.get("H", page + 16 + 2 * at) for at in range(count)]

    def name(self, node: int) -> bytes:
        return bytes(self.bytes[node + 8 : node + 8 + self.get("H", node + 6)])

    def value(self, node: int) -> int:
        return node + 8 + self.get("H", node + 6)

    def below(self, node: int) -> int:
        """The page that a node of a branch leads to."""
        return PAGE * (self.get("I", node) | self.get("H", node + 4) << 32)

    def database(self, name: bytes) -> int:
        """The numbers of a database's tree."""
        return self.value(
            next(node for node in self.nodes(self.root(self.meta + 88)) if self.name(node) == name)
        )

    def leaf(self, tree: int, name: bytes | None = None) -> int:
        """The leaf to which `name` belongs, or the first one."""
        page = self.root(tree)
        while self.get("H", page + 10) == BRANCH:
            nodes = self.nodes(page)
            after = [node for node in nodes[1:] if name is not None and self.name(node) <= name]
            page = self.below(after[-1] if after else nodes[0])
        return page

    def node(self, tree: int, name: bytes) -> int:
        return next(node for node in self.nodes(self.leaf(tree, name)) if self.name(node) == name)

    def free_list(self) -> int:
        """A list of three free pages and more: how many they are, and the numbers."""
        for node in self.nodes(self.leaf(self.meta + 40)):
            value = self.value(node)
            lists = PAGE * self.get("Q", value) + 16 if self.get("H", node + 4) else value
            if self.get("Q", lists) > 2:
                return lists
        raise LookupError("no list is so long")
