"""From plain chunks to stored ones: hash, leave out what is known, encode, ask the stores, send.

Role: sources hand in chunks with :meth:`Pipeline.add`, in the order in which they read them.  A chunk is
known by its fingerprint, the SHA-256 of its plain bytes: cheap beside encoding it.  Chunks are gathered
into batches, and each batch goes the whole way in one thread of the pool: hashing, ciphers and waiting
for a store hold no GIL, so batches overlap.  At most a few batches exist at a time, and nothing of a
chunk but its fingerprint and reference outlives its batch.

`add` and `finish` belong to one thread.  The threads of the pool share two dictionaries, by single
operations that the interpreter makes atomic, and the counters, under a lock.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from zerofs.chunk.codec import Codec, Encoded, encode
from zerofs.flist.model import ChunkRef
from zerofs.pack.pool import Pool
from zerofs.store.ranged import RangedStores

BATCH_BYTES = 4 << 20  # plain bytes
BATCH_CHUNKS = 512


@dataclass
class Counters:
    """What became of the chunks.  Bytes are plain ones where nothing else is said."""

    chunks: int = 0  # references in files
    size: int = 0
    unique: int = 0  # distinct chunks
    unique_size: int = 0
    present: int = 0  # distinct chunks that every store of their range held already
    sent: int = 0  # distinct chunks that some store lacked
    sent_size: int = 0  # payload bytes of these, counted once


class _Slot(NamedTuple):
    """A chunk on its way, and where its fingerprint belongs."""

    prints: list[bytes]
    position: int
    plain: bytes


class Pipeline:
    """Puts chunks into `stores`, encoded with `codec`, in the threads of `pool`."""

    def __init__(self, codec: Codec, stores: RangedStores, pool: Pool) -> None:
        self.counters = Counters()
        self._codec = codec
        self._stores = stores
        self._pool = pool
        self._batch: list[_Slot] = []
        self._batch_size = 0
        self._claimed: dict[bytes, bytes] = {}  # print → the same object: who sets it encodes the chunk
        self._references: dict[bytes, ChunkRef] = {}
        self._lock = threading.Lock()

    def add(self, prints: list[bytes], plain: bytes) -> None:
        """Append the fingerprint of the chunk `plain`: its place at once, its value before `finish` returns.

        Blocks while enough is under way.  Raises what went wrong with an earlier chunk.
        """
        self._batch.append(_Slot(prints, len(prints), plain))
        prints.append(b"")
        self._batch_size += len(plain)
        if self._batch_size >= BATCH_BYTES or len(self._batch) >= BATCH_CHUNKS:
            self._flush()

    def finish(self) -> Mapping[bytes, ChunkRef]:
        """Wait until every chunk is stored; returns the reference of each fingerprint.

        Raises what went wrong.
        """
        self._flush()
        self._pool.wait()
        return self._references

    def _flush(self) -> None:
        batch, self._batch, self._batch_size = self._batch, [], 0
        if batch:
            self._pool.submit(lambda: self._store(batch))

    def _store(self, batch: list[_Slot]) -> None:
        fresh = [encoded for slot in batch if (encoded := self._encode(slot)) is not None]
        if fresh:
            self._send(fresh)
        with self._lock:
            self.counters.chunks += len(batch)
            self.counters.size += sum(len(slot.plain) for slot in batch)

    def _encode(self, slot: _Slot) -> Encoded | None:
        """The encoded chunk, or None where one of equal bytes has been seen."""
        own = hashlib.sha256(slot.plain).digest()
        known = slot.prints[slot.position] = self._claimed.setdefault(own, own)
        if known is not own:
            return None
        encoded = encode(self._codec, slot.plain)
        self._references[own] = ChunkRef(encoded.id, encoded.key)
        with self._lock:
            self.counters.unique += 1
            self.counters.unique_size += len(slot.plain)
        return encoded

    def _send(self, chunks: list[Encoded]) -> None:
        missing = set(self._stores.missing([chunk.id for chunk in chunks]))
        items = [(chunk.id, chunk.payload) for chunk in chunks if chunk.id in missing]
        if items:
            self._stores.put_many(items)
        with self._lock:
            self.counters.present += len(chunks) - len(items)
            self.counters.sent += len(items)
            self.counters.sent_size += sum(len(payload) for _, payload in items)
