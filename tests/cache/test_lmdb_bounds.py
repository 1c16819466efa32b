"""Each bound of the walk of LMDB's trees: a file in which nothing but that bound keeps the walk from what is beyond.

What lies there is a sound entry, or the way to one: without the bound it is found, or said to be absent, and with it
LMDB has to be asked.  Beyond the end of a page lies the next one, beyond the last page of the transaction the rest of
the map.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache.pages import BRANCH, LEAF, PAGE, Pages
from tests.cache.support import chunk
from zerofs._fast import GuardedMap, PinnedTree
from zerofs.cache.lmdb import ChunkCache

COUNT = 400
SMALL = chunk(1, 0)[0]  # its value lies in a leaf
BIG = chunk(0, 0)[0]  # its value lies in pages of its own
NO_PAGE = 2**64 - 1


def size_of(number: int) -> int:
    return 5000 if number % 40 == 0 else 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    with ChunkCache(directory, size_limit=64 << 20) as cache:
        cache.put_many(chunk(number, size_of(number)) for number in range(COUNT))
    return directory / "data.mdb"


class Crafted(Pages):
    """A file whose tree of chunks has the depth 2, and room behind its last page."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.bytes += bytes(128 * PAGE)
        self.transaction = self.get("Q", self.meta + 144)
        self.tree = self.database(b"chunks")
        assert self.get("H", self.tree + 6) == 2

    @property
    def end(self) -> int:
        """Where the pages of the transaction end."""
        return PAGE * (self.get("Q", self.meta + 136) + 1)

    def add(self, content: bytes) -> int:
        """A page, or several, behind the last one, that know their number."""
        page = self.end
        self.bytes[page : page + len(content)] = content
        self.put("Q", page, page // PAGE)
        self.put("Q", self.meta + 136, (page + len(content)) // PAGE - 1)
        return page

    def page(self, at: int) -> bytes:
        return bytes(self.bytes[at : at + PAGE])

    def set_root(self, page: int, depth: int) -> None:
        self.put("Q", self.tree + 40, page // PAGE)
        self.put("H", self.tree + 6, depth)

    def leaf_of(self, name: bytes) -> int:
        return self.leaf(self.tree, name)

    def node_of(self, name: bytes) -> int:
        return self.node(self.tree, name)

    def overflow_of(self, name: bytes) -> int:
        return PAGE * self.get("Q", self.value(self.node_of(name)))

    def add_leaf(self, name: bytes, *, at: int, flags: int, size: int, value: bytes) -> int:
        """A tree of one leaf with one node `at` in it, which may run into the page behind it; the leaf's place."""
        node = bytearray(8) + name + value
        content = bytearray(2 * PAGE)
        content[at : at + len(node)] = node
        leaf = self.add(content)
        self.put("H", leaf + 10, LEAF)
        self.put("H", leaf + 12, 18)
        self.put("H", leaf + 14, min(at, PAGE))
        self.put("H", leaf + 16, at)
        for place, number in enumerate((size & 0xFFFF, size >> 16, flags, len(name))):
            self.put("H", leaf + at + 2 * place, number)
        self.set_root(leaf, 1)
        return leaf

    def entry(self, name: bytes) -> bytes:
        """The value of a small entry, as it lies in the cache."""
        node = self.node_of(name)
        return bytes(self.bytes[self.value(node) : self.value(node) + self.get("I", node)])

    def find(self, name: bytes) -> bytes | None:
        memory = mmap.mmap(-1, len(self.bytes))
        memory[:] = bytes(self.bytes)
        guard = GuardedMap(memory)
        try:
            found = PinnedTree(guard, PAGE, self.transaction, b"chunks").find(name)
            return None if found is None else bytes(found)
        finally:
            guard.close()


def test_nothing_else_is_wrong_with_what_is_crafted(data: Path) -> None:
    for name, plain in (chunk(1, size_of(1)), chunk(0, size_of(0))):
        assert Crafted(data).find(name) == plain
    crafted = Crafted(data)
    entry = crafted.entry(SMALL)
    crafted.add_leaf(SMALL, at=3000, flags=0, size=len(entry), value=entry)
    assert crafted.find(SMALL) == chunk(1, size_of(1))[1]
    crafted = Crafted(data)
    crafted.set_root(crafted.add(crafted.page(crafted.root(crafted.tree))), 2)
    assert crafted.find(SMALL) == chunk(1, size_of(1))[1]


# -- pages -----------------------------------------------------------------------------------


def below_the_first(crafted: Crafted) -> None:
    """The other meta page, in which nothing but its transaction is looked at, is a leaf as well."""
    entry = crafted.entry(SMALL)
    other = PAGE - crafted.meta
    leaf = crafted.page(crafted.add_leaf(SMALL, at=3000, flags=0, size=len(entry), value=entry))
    crafted.bytes[other : other + PAGE] = leaf
    crafted.put("Q", other, other // PAGE)
    crafted.set_root(other, 1)


def behind_the_last(crafted: Crafted) -> None:
    entry = crafted.entry(SMALL)
    crafted.add_leaf(SMALL, at=3000, flags=0, size=len(entry), value=entry)
    crafted.put("Q", crafted.meta + 136, crafted.get("Q", crafted.meta + 136) - 2)


def of_another_number(crafted: Crafted) -> None:
    root = crafted.add(crafted.page(crafted.root(crafted.tree)))
    crafted.put("Q", root, root // PAGE + 1)
    crafted.set_root(root, 2)


def leaf_for_a_branch(crafted: Crafted) -> None:
    crafted.put("H", crafted.root(crafted.tree) + 10, LEAF)


def branch_for_a_leaf(crafted: Crafted) -> None:
    crafted.put("H", crafted.leaf_of(SMALL) + 10, BRANCH)


# -- nodes -----------------------------------------------------------------------------------


def no_offsets(crafted: Crafted) -> None:
    """A bound below the offsets is not a very large number of them."""
    crafted.put("H", crafted.leaf_of(SMALL) + 12, 2)


def more_offsets_than_room(crafted: Crafted) -> None:
    leaf = crafted.leaf_of(SMALL)
    crafted.put("H", leaf + 14, crafted.get("H", leaf + 12) - 2)


def nodes_end_behind_the_page(crafted: Crafted) -> None:
    crafted.put("H", crafted.leaf_of(SMALL) + 14, PAGE + 2)


def empty_leaf(crafted: Crafted) -> None:
    crafted.put("H", crafted.leaf_of(SMALL) + 12, 16)


def branch_of_one(crafted: Crafted) -> None:
    root = crafted.root(crafted.tree)
    crafted.put("I", crafted.nodes(root)[0], crafted.leaf_of(SMALL) // PAGE)
    crafted.put("H", root + 12, 18)


def node_in_the_header(crafted: Crafted) -> None:
    leaf = crafted.leaf_of(SMALL)
    crafted.put("H", leaf + 12, 18)
    crafted.put("H", leaf + 16, 4)


def node_at_an_odd_place(crafted: Crafted) -> None:
    entry = crafted.entry(SMALL)
    crafted.add_leaf(SMALL, at=3001, flags=0, size=len(entry), value=entry)


def name_over_the_end(crafted: Crafted) -> None:
    entry = crafted.entry(SMALL)
    crafted.add_leaf(SMALL, at=PAGE - 10, flags=0, size=len(entry), value=entry)


# -- values ----------------------------------------------------------------------------------


def value_over_the_end(crafted: Crafted) -> None:
    entry = crafted.entry(SMALL)
    crafted.add_leaf(SMALL, at=PAGE - 60, flags=0, size=len(entry), value=entry)


def number_over_the_end(crafted: Crafted) -> None:
    number = (crafted.overflow_of(BIG) // PAGE).to_bytes(8, "little")
    size = crafted.get("I", crafted.node_of(BIG))
    crafted.add_leaf(BIG, at=(PAGE - 8 - len(BIG) - 4) & ~1, flags=1, size=size, value=number)


def unknown_kind_of_value(crafted: Crafted) -> None:
    crafted.put("H", crafted.node_of(SMALL) + 4, 4)


def tree_for_an_entry(crafted: Crafted) -> None:
    crafted.put("H", crafted.node_of(SMALL) + 4, 2)


def leaf_for_a_value(crafted: Crafted) -> None:
    crafted.put("H", crafted.overflow_of(BIG) + 10, LEAF)


def value_behind_the_last(crafted: Crafted) -> None:
    overflow = crafted.overflow_of(BIG)
    copy = crafted.add(bytes(crafted.bytes[overflow : overflow + 2 * PAGE]))
    crafted.put("Q", crafted.value(crafted.node_of(BIG)), copy // PAGE)
    crafted.put("Q", crafted.meta + 136, copy // PAGE)


def value_longer_than_its_pages(crafted: Crafted) -> None:
    crafted.put("I", crafted.overflow_of(BIG) + 12, 1)


# -- trees -----------------------------------------------------------------------------------


def too_deep(crafted: Crafted) -> None:
    below = crafted.root(crafted.tree)
    for _ in range(31):
        branch = crafted.add(crafted.page(crafted.root(crafted.tree)))
        for node in crafted.nodes(branch):
            crafted.put("I", node, below // PAGE)
        below = branch
    crafted.set_root(below, 33)


def of_no_depth(crafted: Crafted) -> None:
    crafted.set_root(crafted.leaf_of(SMALL), 0)


def empty_and_deep(crafted: Crafted) -> None:
    crafted.put("Q", crafted.tree + 40, NO_PAGE)


def of_another_order(crafted: Crafted) -> None:
    crafted.put("H", crafted.tree + 4, 2)  # names are compared from their end


# -- the meta page ---------------------------------------------------------------------------


def no_meta_page(crafted: Crafted) -> None:
    crafted.put("H", crafted.meta + 10, LEAF)


def other_magic(crafted: Crafted) -> None:
    crafted.put("I", crafted.meta + 16, 0)


def other_version(crafted: Crafted) -> None:
    crafted.put("I", crafted.meta + 20, 2)


def other_page_size(crafted: Crafted) -> None:
    crafted.put("I", crafted.meta + 40, 2 * PAGE)


def more_pages_than_the_map(crafted: Crafted) -> None:
    crafted.put("Q", crafted.meta + 136, len(crafted.bytes) // PAGE)


def entry_for_a_database(crafted: Crafted) -> None:
    crafted.put("H", crafted.tree - 8 - len(b"chunks") + 4, 0)


def short_database(crafted: Crafted) -> None:
    crafted.put("H", crafted.tree - 8 - len(b"chunks"), 46)


OF_BIG = (number_over_the_end, leaf_for_a_value, value_behind_the_last, value_longer_than_its_pages)
CRAFTS = [
    below_the_first,
    behind_the_last,
    of_another_number,
    leaf_for_a_branch,
    branch_for_a_leaf,
    more_offsets_than_room,
    nodes_end_behind_the_page,
    no_offsets,
    empty_leaf,
    branch_of_one,
    node_in_the_header,
    node_at_an_odd_place,
    name_over_the_end,
    value_over_the_end,
    number_over_the_end,
    unknown_kind_of_value,
    tree_for_an_entry,
    leaf_for_a_value,
    value_behind_the_last,
    value_longer_than_its_pages,
    too_deep,
    of_no_depth,
    empty_and_deep,
    of_another_order,
    no_meta_page,
    other_magic,
    other_version,
    other_page_size,
    more_pages_than_the_map,
    entry_for_a_database,
    short_database,
]


@pytest.mark.parametrize("craft", CRAFTS, ids=lambda craft: craft.__name__)
def test_lmdb_is_asked(data: Path, craft: Callable[[Crafted], None]) -> None:
    crafted = Crafted(data)
    craft(crafted)
    with pytest.raises(LookupError):
        crafted.find(BIG if craft in OF_BIG else SMALL)
