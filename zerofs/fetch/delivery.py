"""A batch of flights on its way through cache, router and codec, to those who wait for it.

Place: the fetcher's threads, and those of `background`, bring each batch here; the fetcher is told of what has arrived,
already kept in `memory`, and of what cannot be had.  Payloads that arrive together are decoded together, and none waits
for another.

Threads: any, each with batches of its own.  No locks; none is held while anything is waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from zerofs.chunk.batch import Request, decode_many
from zerofs.errors import ChunkError, ClosingError, StoreError, ZerofsError

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.fetch.background import Transfer
    from zerofs.fetch.flight import Flight
    from zerofs.fetch.memory import ChunkMemory
    from zerofs.fetch.protocols import ChunkSource
    from zerofs.store.base import Payload

logger = logging.getLogger(__name__)

GiveUp = Callable[["Flight", ZerofsError], None]


class Arrived(NamedTuple):
    """What came together: flights with their plain bytes, and what it took."""

    good: Sequence[tuple[Flight, bytes]]
    from_cache: bool = False  # where somebody else has put them meanwhile
    payload: int = 0  # bytes of the good ones, as they came from a store
    refused: int = 0  # payloads that did not verify


class _ClosedError(Exception):
    """Ends a fetch whose result nobody wants any more."""


class Delivery:
    """`serve` ends flights with what has arrived.  `router`, `cache` and the rest are those of the fetcher."""

    def __init__(
        self,
        router: ChunkSource,
        cache: ChunkCache | None,
        memory: ChunkMemory,
        serve: Callable[[Arrived], None],
        *,
        timeout: float,
        allow_unverified: bool,
    ) -> None:
        self._router = router
        self._cache = cache
        self._memory = memory
        self._serve = serve
        self._timeout = timeout
        self._allow_unverified = allow_unverified
        self._closed = False

    def close(self) -> None:
        """Nobody wants anything any more: what is under way ends with the next answer of a store."""
        self._closed = True

    def bring(self, batch: Sequence[Flight], transfer: Transfer, give_up: GiveUp, *, hedged: bool) -> None:
        """Bring every flight of `batch` to its end; `give_up` gets those that cannot be had."""
        flights = self._unsettled(batch)
        error: ZerofsError = StoreError("no store answered for a chunk")

        def judge(arrived: Sequence[tuple[int, Payload]]) -> list[ChunkError | None]:
            return self._judge(
                [flights[index] for index, _ in arrived], [each for _, each in arrived], transfer
            )

        failed: set[Flight] = set()

        def fail(index: int, error: ZerofsError) -> None:
            failed.add(flights[index])
            give_up(flights[index], error)

        try:
            if flights:
                ids = [flight.chunk.id for flight in flights]
                deadline = max([flight.deadline for flight in flights])
                self._router.fetch_batches(ids, judge, fail, deadline, hedged=hedged)
        except _ClosedError:
            error = closing_error()
        except ZerofsError as caught:
            error = caught
        except Exception:
            logger.exception("fetching %d chunks failed unexpectedly", len(flights))
        for flight in flights:
            if not flight.landed and flight not in failed:
                give_up(flight, error)

    def _unsettled(self, batch: Sequence[Flight]) -> list[Flight]:
        """Those to be fetched: not too late, and not in the cache, whoever put them there meanwhile."""
        now = time.monotonic()
        for flight in batch:
            if not flight.demanded:
                flight.deadline = now + self._timeout
        flights = [flight for flight in batch if flight.deadline > now]  # readers see to the others
        if self._cache is None:
            return flights
        with self._cache.snapshot() as snapshot:
            plains = snapshot.read_many([flight.name for flight in flights])
        found = [(flight, plain) for flight, plain in zip(flights, plains, strict=True) if plain is not None]
        if found:
            self._serve(Arrived(found, from_cache=True))
            return [flight for flight, plain in zip(flights, plains, strict=True) if plain is None]
        return flights

    def _judge(
        self, flights: list[Flight], payloads: list[Payload], transfer: Transfer
    ) -> list[ChunkError | None]:
        """Decode and verify payloads that arrived together, and serve them; for each what is wrong with it."""
        sizes = [len(payload) for payload in payloads]
        transfer.arrived(sum(sizes), sum([flight.chunk.size for flight in flights]))
        if self._closed:
            raise _ClosedError
        requests = [
            Request(flight.chunk.key, payload, flight.chunk.size)
            for flight, payload in zip(flights, payloads, strict=True)
        ]
        results = decode_many(requests, allow_unverified=self._allow_unverified)
        good: list[tuple[Flight, bytes]] = []
        verdicts: list[ChunkError | None] = []
        size = 0
        for flight, result, payload_size in zip(flights, results, sizes, strict=True):
            if isinstance(result, ChunkError):
                verdicts.append(result)
            else:
                verdicts.append(None)
                good.append((flight, result))
                size += payload_size
        self._memory.keep([(flight.name, plain) for flight, plain in good])
        self._serve(Arrived(good, payload=size, refused=len(flights) - len(good)))
        self._memory.wait_for_room()
        return verdicts


def closing_error() -> ZerofsError:
    return ClosingError("the mount is coming down")
