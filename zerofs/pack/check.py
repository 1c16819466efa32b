"""Reading every chunk of a flist where a mount would find it, and keeping none.

Role: `zerofs store check`.  A chunk counts as there when one destination gives bytes that verify, as for a reader; what
the others lack or have damaged is in the counters of the router.  Batches run in the threads of a pool.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from zerofs.chunk.codec import decode
from zerofs.errors import StoreRefusedError, StoreUnreachableError, ZerofsError
from zerofs.flist.index import Index
from zerofs.flist.model import Chunk
from zerofs.pack.batches import in_batches, size_of
from zerofs.pack.patience import told_when_late
from zerofs.pack.progress import Progress
from zerofs.store.base import Payload
from zerofs.store.router import Router


@dataclass
class Checked:
    """What a run found."""

    chunks: int = 0
    size: int = 0  # plain bytes of all chunks
    payload_size: int = 0  # bytes of those that are there, as they came
    lacking: dict[Chunk, ZerofsError] = field(default_factory=dict)  # why nobody could give it


def check_chunks(
    index: Index,
    source: Router,
    progress: Progress,
    *,
    workers: int,
    timeout: float,
    allow_unverified: bool = False,
) -> Checked:
    """Read every chunk of `index` from `source`; a batch may take `timeout` seconds.

    Chunks that are missing, damaged or cannot be read are noted, and the others go on.  Raises the error of a store
    that fails as a whole: whether it has a chunk is not known then.
    """
    checked = Checked()
    lock = threading.Lock()

    def check(batch: list[Chunk]) -> None:
        errors: dict[Chunk, ZerofsError] = {}
        sizes: dict[Chunk, int] = {}

        def accept(position: int, payload: Payload) -> None:
            chunk = batch[position]
            decode(chunk.key, payload, chunk.size, allow_unverified=allow_unverified)
            sizes[chunk] = len(payload)

        def fail(position: int, error: ZerofsError) -> None:
            errors[batch[position]] = error

        with told_when_late(source, timeout):
            source.fetch_many([chunk.id for chunk in batch], accept, fail, time.monotonic() + timeout)
        for error in errors.values():
            if isinstance(error, StoreUnreachableError | StoreRefusedError):
                raise error
        with lock:
            checked.chunks += len(batch)
            checked.size += size_of(batch)
            checked.payload_size += sum(sizes.values())
            checked.lacking.update(errors)

    in_batches(index, check, progress, workers=workers)
    return checked
