"""The chunks of a flist in batches, as large as a store is asked for at once.

Role: what `store copy` and `store check` hand to the threads of a pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from zerofs.flist.index import Index
from zerofs.flist.model import Chunk

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
