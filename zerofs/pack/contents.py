"""The content of files, from the stores by way of a router: verified, many chunks at a time.

Role: what `cat`, `unpack` and `store copy` read with.  They know what they need ahead of time, so they ask for
batches rather than wait for one chunk after the other as a mount must.  Stateless; any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from zerofs.chunk.codec import Codec, cache_name, codec_of, decode
from zerofs.errors import ChunkCorruptError, FlistCorruptError, ZerofsError
from zerofs.flist.index import Index
from zerofs.flist.model import Chunk
from zerofs.pack.patience import told_when_late
from zerofs.store.base import Payload
from zerofs.store.router import Router

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache

T = TypeVar("T")


class Piece(NamedTuple):
    """Where a chunk lies in a file; bytes."""

    chunk: int  # its number in the index
    offset: int
    size: int


def pieces(index: Index, row: int, path: str) -> Iterator[Piece]:
    """The pieces of the file `row` in order.  FlistCorruptError, naming `path`, where some are missing."""
    node = index.node(row)
    numbers = index.refs(row)
    if len(numbers) * node.block_size < node.size:
        held = len(numbers) * node.block_size
        raise FlistCorruptError(f"{path}: the flist has chunks for {held} of {node.size} bytes")
    for position, number in enumerate(numbers):
        offset = position * node.block_size
        yield Piece(number, offset, min(node.block_size, node.size - offset))


def fetch(
    router: Router, chunks: Sequence[Chunk], timeout: float, take: Callable[[Chunk, Payload], T]
) -> list[T]:
    """What `take` makes of the payload of each chunk, in order.

    A ChunkError of `take` sends the router to the next destination.  Raises the first error of a chunk that
    no destination could give within `timeout` seconds.
    """
    taken: dict[int, T] = {}
    errors: list[ZerofsError] = []

    def accept(position: int, payload: Payload) -> None:
        taken[position] = take(chunks[position], payload)

    def fail(position: int, error: ZerofsError) -> None:
        errors.append(error)

    if not chunks:
        return []
    with told_when_late(router, timeout):
        router.fetch_many([chunk.id for chunk in chunks], accept, fail, time.monotonic() + timeout)
    if errors:
        raise errors[0]
    return [taken[position] for position in range(len(chunks))]


class Contents:
    """Verified bytes of chunks: from `cache` where it has them, else from `router`, and then kept there.

    `timeout`, in seconds, is the longest that a batch may wait.  Any thread.
    """

    def __init__(
        self,
        router: Router,
        cache: ChunkCache | None = None,
        *,
        timeout: float,
        allow_unverified: bool = False,
    ) -> None:
        self._router = router
        self._cache = cache
        self._timeout = timeout
        self._allow_unverified = allow_unverified

    def read(self, chunks: Sequence[Chunk]) -> list[bytes]:
        """The plain bytes of `chunks`, in order; each distinct one is fetched once.

        Raises the first error of a chunk that cannot be had.
        """
        distinct = list(dict.fromkeys(chunks))
        found = self._cached(distinct)
        wanted = [chunk for chunk in distinct if chunk not in found]
        fetched = dict(zip(wanted, fetch(self._router, wanted, self._timeout, self._decoded), strict=True))
        self._keep(fetched)
        found.update(fetched)
        return [found[chunk] for chunk in chunks]

    def _decoded(self, chunk: Chunk, payload: Payload) -> bytes:
        return decode(chunk.key, payload, chunk.size, allow_unverified=self._allow_unverified)

    def _cached(self, chunks: Sequence[Chunk]) -> dict[Chunk, bytes]:
        if self._cache is None:
            return {}
        with self._cache.snapshot() as snapshot:
            found = ((chunk, snapshot.read(cache_name(chunk.key))) for chunk in chunks)
            return {chunk: plain for chunk, plain in found if plain is not None}

    def _keep(self, fetched: Mapping[Chunk, bytes]) -> None:
        if self._cache is not None:
            verified = [
                (cache_name(chunk.key), content)
                for chunk, content in fetched.items()
                if codec_of(chunk.key) is not Codec.UNKNOWN
            ]
            self._cache.put_many(verified)


def cut(piece: Piece, content: bytes, path: str) -> memoryview:
    """The bytes of `piece` out of its chunk's `content`.  Raises ChunkCorruptError where there are fewer."""
    if len(content) < piece.size:
        raise ChunkCorruptError(f"{path}: a chunk of {len(content)} bytes where {piece.size} belong")
    return memoryview(content)[: piece.size]
