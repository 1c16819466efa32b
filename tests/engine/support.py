"""A tree to serve, and what stands for its cache and store."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.index.trees import device, file, link
from zerofs._fast import Recency, WorkingSet
from zerofs.flist.index import Index
from zerofs.flist.model import CHUNK_SIZE, Kind

FOREVER = 1_000_000_000
TREE = {
    "bin": {"sh": file("shell", mode=0o4755), "ls": link("../usr/bin/ls")},
    "dev": {"null": device(Kind.CHARDEV, 1, 3)},
    "many": {f"name-{n:04}": file("") for n in range(700)},
    "gone": None,
    "big": file("big", size=CHUNK_SIZE * 2 + 5),
    "short": file("short", size=CHUNK_SIZE * 3, chunks=2),
}


class Chunks:
    """What a cache and a store hold: chunk key → bytes.  Stands for both; the real ones have tests of their own."""

    def __init__(self, index: Index) -> None:
        chance = random.Random(5)
        self.index = index
        self.all = {
            index.chunk(n).key: chance.randbytes(index.chunk(n).size) for n in range(index.chunk_count)
        }
        self.cached: dict[bytes, bytes] = {}
        self.live = 0
        self.waiting: list[tuple[int, Callable[[int, bytes | None], None]]] = []

    def working_set(self) -> WorkingSet:
        return WorkingSet(Recency())

    def snapshot(self) -> Chunks:
        self.live += 1
        return self

    def release(self) -> None:
        self.live -= 1

    def tree(self) -> None:
        """It is not LMDB's."""

    def find(self, name: bytes, *, verify: bool = True) -> memoryview | None:
        plain = self.cached.get(name[1:])  # behind the codec
        return None if plain is None else memoryview(plain)

    def request(self, index: object, number: int, done: Callable[[int, bytes | None], None]) -> None:
        self.waiting.append((number, done))

    def deliver(self, *, fail: bool = False) -> None:
        waiting, self.waiting = self.waiting, []
        for number, done in waiting:
            done(number, None if fail else self.all[self.index.chunk(number).key])

    def content(self, row: int) -> bytes:
        return b"".join(self.all[self.index.chunk(number).key] for number in self.index.refs(row))


def node(index: Index, path: str) -> int:
    row = index.resolve(path.encode())
    assert row is not None
    return row + 1


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
