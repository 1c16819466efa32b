"""Copying the chunks of a flist from the stores that have them to others.

Role: `zerofs store copy`.  The destination is asked first what it lacks; what it lacks is fetched, proven, and
written as it was stored.  Batches run in the threads of a pool.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from zerofs.chunk.codec import decode
from zerofs.flist.index import Index
from zerofs.flist.model import Chunk
from zerofs.pack.batches import in_batches, size_of
from zerofs.pack.contents import fetch
from zerofs.pack.progress import Progress
from zerofs.store.base import Payload
from zerofs.store.ranged import RangedStores
from zerofs.store.router import Router


@dataclass
class Copied:
    """What a run did."""

    chunks: int = 0
    size: int = 0  # plain bytes of all chunks
    present: int = 0  # chunks that were there already
    sent: int = 0
    sent_size: int = 0  # payload bytes


def copy_chunks(
    index: Index,
    source: Router,
    destination: RangedStores,
    progress: Progress,
    *,
    workers: int,
    timeout: float,
    verify: bool = True,
) -> Copied:
    """Copy every chunk of `index`.  Raises the first error; what was copied before stays.

    With `verify` a payload that does not decode to its key is refused, and the next destination of
    `source` is asked.  `timeout`, in seconds, is the longest that a batch may wait for `source`.
    """
    copied = Copied()
    lock = threading.Lock()

    def take(chunk: Chunk, payload: Payload) -> bytes:
        if verify:
            decode(chunk.key, payload, chunk.size)
        return bytes(payload)  # the router uses its memory again

    def copy(batch: list[Chunk]) -> None:
        lacking = set(destination.missing([chunk.id for chunk in batch]))
        wanted = [chunk for chunk in batch if chunk.id in lacking]
        payloads = fetch(source, wanted, timeout, take)
        destination.put_many([(chunk.id, payload) for chunk, payload in zip(wanted, payloads, strict=True)])
        with lock:
            copied.chunks += len(batch)
            copied.size += size_of(batch)
            copied.present += len(batch) - len(wanted)
            copied.sent += len(wanted)
            copied.sent_size += sum(map(len, payloads))

    destination.check()
    in_batches(index, copy, progress, workers=workers)
    return copied
