"""Under which name the engine asks the cache for a chunk, against `codec.cache_name`."""

from __future__ import annotations

import random

from tests.engine.kernel import READ, Kernel, read_in
from tests.index.trees import TreeReader
from zerofs._fast import Recency, WorkingSet
from zerofs.chunk.codec import cache_name
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index
from zerofs.flist.model import Attributes, ChunkRef, Entry, Kind

CHANCE = random.Random(9)
KEYS = [
    *(CHANCE.randbytes(size) for size in (*range(1, 40), 63, 64, 65, 509, 510)),
    CHANCE.randbytes(32).hex().encode(),
    CHANCE.randbytes(32).hex().upper().encode(),
    b"aB" * 32,
    b"0" * 63 + b"g",
    b"0" * 63,
]


class Asked:
    """A cache in which nothing is, and that remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: list[bytes] = []

    def working_set(self) -> WorkingSet:
        return WorkingSet(Recency())

    def snapshot(self) -> Asked:
        return self

    def tree(self) -> None:
        """There is none."""

    def find(self, name: bytes, *, verify: bool = True) -> None:
        self.names.append(name)

    def release(self) -> None:
        """End of a snapshot."""


def test_every_form_of_a_key() -> None:
    entries: dict[str, object] = {
        str(n): Entry(b"", Kind.FILE, Attributes(0o644, 1, 2, 3, 4), 5, chunks=[ChunkRef(b"id-%d" % n, key)])
        for n, key in enumerate(KEYS)
    }
    index = Index.anonymous(compile_flist(TreeReader(entries)))
    cache = Asked()
    kernel = Kernel(index.map, cache=cache)
    kernel.init()
    for number, key in enumerate(KEYS):
        row = index.resolve(str(number).encode())
        assert row is not None
        cache.names.clear()
        kernel.ask(READ, row + 1, read_in(0, 5))
        assert cache.names and set(cache.names) == {cache_name(key)}
    kernel.close()
