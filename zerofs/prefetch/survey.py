"""How much of a tree is in the cache, and in which order the rest is worth fetching.

Role: what background completion and `zerofs warmup` plan by.  A pass over the tree's tables and a look-up in the
cache for each chunk, nothing is read or verified.  Stateless; any thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from zerofs.chunk.codec import Codec, cache_name
from zerofs.flist.model import Kind

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.flist.index import Index

_TOGETHER = 4096  # chunks looked up in one snapshot, which pins pages of the cache


class Survey(NamedTuple):
    """Of some files of a tree.  Sizes are plain bytes of distinct chunks."""

    files: int  # that have chunks
    files_here: int  # all of whose chunks are in the cache
    chunks: int
    chunks_here: int
    size: int
    size_here: int
    lacking: Sequence[int]  # chunks to fetch, those first that complete most files for their bytes

    @property
    def complete(self) -> bool:
        return self.chunks == self.chunks_here


def files_below(tree: Index, row: int = 0) -> Iterator[int]:
    """The rows of all files at or below `row` that have chunks."""
    rows = (each for _, each in tree.walk(row)) if row else range(len(tree))
    for each in rows:
        node = tree.node(each)
        if node.kind is Kind.FILE and node.length:
            yield each


def lacking_sizes(tree: Index, cache: ChunkCache, numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(chunk, its plain bytes where it is lacking, 0 where the cache has it) for each of `numbers`."""
    source = iter(numbers)
    while piece := list(islice(source, _TOGETHER)):
        chunks = [tree.chunk(number) for number in piece]
        here = cache.has_many([cache_name(chunk.key) for chunk in chunks])
        for number, chunk, present in zip(piece, chunks, here, strict=True):
            yield number, 0 if present else max(1, chunk.size)


def survey(tree: Index, cache: ChunkCache, files: Iterable[int]) -> Survey:
    """What the cache has of the `files` (rows, each once)."""
    rows = array("I", files)
    wanted = bytearray(tree.chunk_count)
    for row in rows:
        for number in tree.refs(row):
            wanted[number] = 1
    costs = array("I", bytes(4 * tree.chunk_count))  # what is lacking of each chunk
    for number, cost in lacking_sizes(tree, cache, (number for number, one in enumerate(wanted) if one)):
        costs[number] = cost
    order = array("I")
    incomplete = _by_cost(tree, rows, costs)
    for row in incomplete:
        for number in tree.refs(row):
            if wanted[number] and costs[number]:
                wanted[number] = 0
                order.append(number)
    size_here = sum(tree.chunk(number).size for number, one in enumerate(wanted) if one)
    return Survey(
        files=len(rows),
        files_here=len(rows) - len(incomplete),
        chunks=sum(wanted) + len(order),
        chunks_here=sum(wanted),
        size=size_here + sum(tree.chunk(number).size for number in order),
        size_here=size_here,
        lacking=order,
    )


def survey_chunks(tree: Index, cache: ChunkCache, numbers: Iterable[int]) -> Survey:
    """What the cache has of the chunks `numbers`, of no files in particular; the rest is lacking in this order."""
    distinct = list(dict.fromkeys(numbers))
    lacking = [number for number, cost in lacking_sizes(tree, cache, distinct) if cost]
    size = sum(tree.chunk(number).size for number in distinct)
    size_here = size - sum(tree.chunk(number).size for number in lacking)
    return Survey(0, 0, len(distinct), len(distinct) - len(lacking), size, size_here, lacking)


def is_cacheable(tree: Index, number: int) -> bool:
    """Whether the cache keeps the chunk: one that nothing proves is only served."""
    return cache_name(tree.chunk(number).key)[0] != Codec.UNKNOWN


def _by_cost(tree: Index, rows: array[int], costs: array[int]) -> list[int]:
    """Those of `rows` of which something is lacking, the cheapest first."""
    keys: list[int] = []  # cost and row in one number: there may be millions
    for row in rows:
        cost = sum(costs[number] for number in set(tree.refs(row)))
        if cost:
            keys.append(cost << 32 | row)
    keys.sort()
    return [key & 0xFFFFFFFF for key in keys]
