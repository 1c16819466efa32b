"""How much of a tree is in the cache, and in which order the rest is worth fetching.

Role: what background completion and `zerofs warmup` plan by.  A pass over the tree's tables and a look-up in the
cache for each chunk, nothing is read or verified.  Stateless; any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    lacking: list[int]  # chunks to fetch, those first that complete most files for their bytes
    lacking_files: list[int]  # their rows, in the same order

    @property
    def complete(self) -> bool:
        return self.files == self.files_here


def files_below(tree: Index, row: int = 0) -> Iterator[int]:
    """The rows of all files at or below `row` that have chunks."""
    rows = (each for _, each in tree.walk(row)) if row else range(len(tree))
    for each in rows:
        node = tree.node(each)
        if node.kind is Kind.FILE and node.length:
            yield each


def survey_chunks(tree: Index, cache: ChunkCache, numbers: Iterable[int]) -> dict[int, int]:
    """Chunk → its plain bytes if it is lacking, 0 if it is in the cache, for each of `numbers`."""
    lacking: dict[int, int] = {}
    source = iter(numbers)
    while piece := list(islice(source, _TOGETHER)):
        chunks = [tree.chunk(number) for number in piece]
        here = cache.has_many([cache_name(chunk.key) for chunk in chunks])
        for number, chunk, present in zip(piece, chunks, here, strict=True):
            lacking[number] = 0 if present else max(1, chunk.size)
    return lacking


def survey(tree: Index, cache: ChunkCache, files: Iterable[int]) -> Survey:
    """What the cache has of the `files` (rows)."""
    refs = {row: list(dict.fromkeys(tree.refs(row))) for row in dict.fromkeys(files)}
    lacking = survey_chunks(tree, cache, dict.fromkeys(number for each in refs.values() for number in each))
    costs = {row: sum(lacking[number] for number in numbers) for row, numbers in refs.items()}
    incomplete = sorted((row for row, cost in costs.items() if cost), key=costs.__getitem__)
    order = dict.fromkeys(number for row in incomplete for number in refs[row] if lacking[number])
    size = sum(tree.chunk(number).size for number in lacking)
    return Survey(
        files=len(refs),
        files_here=len(refs) - len(incomplete),
        chunks=len(lacking),
        chunks_here=len(lacking) - len(order),
        size=size,
        size_here=size - sum(tree.chunk(number).size for number in order),
        lacking=list(order),
        lacking_files=incomplete,
    )


def is_cacheable(tree: Index, number: int) -> bool:
    """Whether the cache keeps the chunk: one that nothing proves is only served."""
    return cache_name(tree.chunk(number).key)[0] != Codec.UNKNOWN
