"""Background completion, step by step by a clock of the test: when it works, in which order, and when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.index.trees import TreeReader, file
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import cache_name
from zerofs.errors import ChunkMissingError
from zerofs.fetch.flight import Done
from zerofs.fetch.flights import FetchStats
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index
from zerofs.flist.model import CHUNK_SIZE, Chunk, ChunkRef
from zerofs.prefetch import completion
from zerofs.prefetch.completion import Completion
from zerofs.prefetch.survey import files_below, survey

KIB = 1024


def key(name: str, number: int) -> bytes:
    return f"{name}-{number}".encode().ljust(16, b".")


def sized(name: str, size: int, keys: list[bytes] | None = None) -> object:
    """A file whose chunks have keys of a known hash, as the cache keeps them."""
    keys = keys or [key(name, number) for number in range(-(-size // CHUNK_SIZE))]
    return file(name, size=size)._replace(chunks=[ChunkRef(each, each) for each in keys])


class Store:
    """A fetcher that brings what is asked for when the test says so."""

    def __init__(self, cache: ChunkCache) -> None:
        self.cache = cache
        self.demanded = 0
        self.asked: list[Chunk] = []  # and not brought yet
        self.sizes: list[int] = []  # of batches
        self.lost: set[bytes] = set()  # cannot be had
        self.elsewhere: set[bytes] = set()  # are on their way already, so nobody is told

    def stats(self) -> FetchStats:
        return FetchStats(demanded=self.demanded)

    def request(self, chunks: Iterable[Chunk], done: Done) -> int:
        batch = list(chunks)
        self.asked += batch
        self.done = done
        self.sizes.append(sum(chunk.size for chunk in batch))
        return len(batch)

    def deliver(self) -> list[bytes]:
        here = [chunk for chunk in self.asked if chunk.key not in self.lost | self.elsewhere]
        for chunk in self.asked:
            if chunk.key in self.lost:
                self.done(None, ChunkMissingError("nobody has it"))
        self.asked = []
        self.cache.put_many((cache_name(chunk.key), bytes(chunk.size)) for chunk in here)
        return [chunk.key for chunk in here]


class Bench:
    """A completion, its clock, and what it fetched."""

    def __init__(self, tree: dict[str, object], cache: ChunkCache, rate: float) -> None:
        self.now = 100.0
        self.index = Index.anonymous(compile_flist(TreeReader(tree)))
        self.cache = cache
        self.store = Store(cache)
        self.order: list[bytes] = []
        self.made = Completion(self.index, cache, self.store, rate, clock=lambda: self.now)  # type: ignore[arg-type]

    def run(self, until: float) -> bool:
        """Step, delivering at once, until a time; whether it has ended before."""
        while self.now < until:
            pause = self.made.step()
            self.order += self.store.deliver()
            if pause is None:
                return True
            self.now += pause
        return False

    def complete(self) -> bool:
        return survey(self.index, self.cache, files_below(self.index)).complete


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ChunkCache]:
    with ChunkCache(tmp_path / "ca", size_limit=64 << 20) as opened:
        yield opened


def test_the_smallest_files_come_first_and_then_it_ends(cache: ChunkCache) -> None:
    shared = [key("shared", 0)]
    tree = {
        "a-large": sized("large", 5 * CHUNK_SIZE),
        "b-middle": sized("middle", CHUNK_SIZE),
        "c-small": {
            "one": sized("one", 10),
            "two": sized("two", 20, shared),
            "three": sized("three", 20, shared),
        },
        "d-empty": file("", size=0),
    }
    bench = Bench(tree, cache, rate=1e9)
    assert bench.run(until=1000)
    assert bench.order == [key("one", 0), *shared, key("middle", 0), *(key("large", n) for n in range(5))]
    assert bench.complete()


def test_it_begins_when_the_start_is_over_and_waits_for_readers(cache: ChunkCache) -> None:
    bench = Bench({f"{n:03}": sized(str(n), CHUNK_SIZE) for n in range(40)}, cache, rate=1e9)
    start = bench.now
    bench.run(until=start + completion.QUIET - 1)
    bench.store.demanded += 1  # the start goes on
    bench.run(until=start + 2 * completion.QUIET - 2)
    assert bench.order == []
    bench.run(until=start + 2 * completion.QUIET + 0.5)
    assert bench.order
    before, at = len(bench.order), bench.now
    while bench.now < at + 5:
        bench.store.demanded += 1
        bench.run(until=bench.now + completion.PAUSE / 2)
    assert len(bench.order) == before
    assert bench.run(until=at + 100)
    assert bench.complete()


def test_it_keeps_to_its_rate_in_small_batches(cache: ChunkCache) -> None:
    bench = Bench({f"{n:03}": sized(str(n), 256 * KIB) for n in range(100)}, cache, rate=1 << 20)
    begin = bench.now + completion.QUIET
    assert not bench.run(until=begin + 10)
    assert 9 << 20 <= sum(bench.store.sizes) <= (10 << 20) + completion.BATCH_BYTES
    assert max(bench.store.sizes) <= completion.BATCH_BYTES
    assert bench.run(until=begin + 60)


def test_what_is_there_is_not_fetched(cache: ChunkCache) -> None:
    bench = Bench({"a": sized("a", 2 * CHUNK_SIZE), "b": sized("b", 5)}, cache, rate=1e9)
    cache.put_many([(cache_name(key("a", 0)), bytes(CHUNK_SIZE))])
    assert bench.run(until=1000)
    assert bench.order == [key("b", 0), key("a", 1)]


def test_what_cannot_be_had_is_tried_again(cache: ChunkCache) -> None:
    bench = Bench(
        {"a": sized("a", 5), "b": sized("b", CHUNK_SIZE + 1), "c": sized("c", CHUNK_SIZE)}, cache, rate=1e9
    )
    bench.store.lost = {key("a", 0)}
    begin = bench.now + completion.QUIET
    assert not bench.run(until=begin + 1)
    assert len(bench.store.sizes) > 1
    assert set(bench.order) == {key("b", 0), key("b", 1), key("c", 0)}, (
        "one that nobody has keeps no other waiting"
    )
    assert not bench.run(until=begin + completion.RETRY - 1)
    assert key("a", 0) not in bench.order
    bench.store.lost = set()
    assert bench.run(until=bench.now + completion.RETRY + 20)
    assert bench.complete()


def test_what_somebody_else_brings_is_waited_for(cache: ChunkCache) -> None:
    bench = Bench({"a": sized("a", 5), "b": sized("b", 6)}, cache, rate=1e9)
    bench.store.elsewhere = {key("a", 0)}
    begin = bench.now + completion.QUIET
    assert not bench.run(until=begin + completion.ARRIVAL - 1)
    assert bench.order == [key("b", 0)]
    cache.put_many([(cache_name(key("a", 0)), bytes(5))])
    assert bench.run(until=bench.now + 1)
    assert bench.complete()


def test_some_of_the_cache_is_left_to_others(tmp_path: Path) -> None:
    with ChunkCache(tmp_path / "small", size_limit=16 << 20) as cache:
        bench = Bench({f"{n:03}": sized(str(n), CHUNK_SIZE) for n in range(60)}, cache, rate=1e9)
        assert bench.run(until=1000)
        stats = cache.stats()
        assert not bench.complete()
        assert stats.refused == 0
        assert stats.size_limit * 0.8 < stats.used < stats.size_limit


def test_another_tree_is_completed_too(cache: ChunkCache) -> None:
    bench = Bench({"a": sized("a", 5)}, cache, rate=1e9)
    assert bench.run(until=1000)
    bench.index = Index.anonymous(compile_flist(TreeReader({"a": sized("a", 5), "b": sized("b", 6)})))
    bench.made.replace(bench.index)
    assert bench.run(until=2000)
    assert bench.complete()


def test_chunks_that_nothing_proves_are_left_alone(cache: ChunkCache) -> None:
    bench = Bench({"a": file("unverifiable", size=5), "b": sized("b", 6)}, cache, rate=1e9)
    assert bench.run(until=1000)
    assert bench.order == [key("b", 0)]
