"""The chunks of a flist in batches, as large as a store is asked for at once.

Role: how `store copy` and `store check` go over all of them, in the threads of a pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from zerofs.flist.index import Index
from zerofs.flist.model import Chunk
from zerofs.pack.pool import Pool
from zerofs.pack.progress import Progress

BATCH_BYTES = 4 << 20  # plain bytes
BATCH_CHUNKS = 256


def batches(index: Index) -> Iterator[list[Chunk]]:
    """Every distinct chunk once, in the order of its number."""
    chunks = (index.chunk(number) for number in range(index.chunk_count))
    for first in chunks:
        batch = [first]
        size = first.size
        for chunk in itertools.islice(chunks, BATCH_CHUNKS - 1):
            batch.append(chunk)
            size += chunk.size
            if size >= BATCH_BYTES:
                break
        yield batch


def in_batches(
    index: Index, work: Callable[[list[Chunk]], object], progress: Progress, *, workers: int
) -> None:
    """Have `work` done on all batches, by `workers` threads.  Raises its first error."""

    def step(batch: list[Chunk]) -> None:
        work(batch)
        progress.advance(files=len(batch), size=size_of(batch))

    numbers = range(index.chunk_count)
    progress.expect(files=len(numbers), size=sum(index.chunk(number).size for number in numbers))
    with Pool(workers) as pool:
        for batch in batches(index):
            pool.submit(lambda batch=batch: step(batch))  # type: ignore[misc]


def size_of(batch: list[Chunk]) -> int:
    """Plain bytes."""
    return sum(chunk.size for chunk in batch)
