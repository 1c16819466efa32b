"""What the fetcher needs of others: the router that it fetches by, and who knows what will be wanted next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from zerofs.errors import ChunkError, ZerofsError
    from zerofs.fetch.flight import Done
    from zerofs.flist.model import Chunk
    from zerofs.store.base import Payload
    from zerofs.store.link import Link


class ChunkSource(Protocol):
    """What the fetcher needs of a router."""

    def fetch_batches(
        self,
        ids: Sequence[bytes],
        judge: Callable[[Sequence[tuple[int, Payload]]], Sequence[ChunkError | None]],
        fail: Callable[[int, ZerofsError], None],
        deadline: float,
        *,
        hedged: bool = True,
    ) -> None:
        """Hand payloads as they arrive to `judge`, which says why it refuses one, or each error to `fail`.

        `hedged`: where a replica is late, another may be asked as well.
        """
        ...

    def way_to(self, chunk_id: bytes) -> Link:
        """To the store that a chunk is most likely to come from."""
        ...

    def ways(self) -> Sequence[Link]:
        """To all stores that chunks come from, as far as that is known."""
        ...


class Feeder(Protocol):
    """Who knows what will be wanted next."""

    def take(self, room: int) -> Sequence[tuple[Chunk, Done]]:
        """Chunks to be fetched now, of up to `room` bytes but at least one where any is left.

        Each comes with what is called once when it is here, or cannot be had; with neither bytes nor error
        where there was nothing to do, as somebody else has it or waits for it.  Any thread.
        """
        ...
