"""The fetcher: whoever needs a chunk that is not in the cache asks here, and gets bytes or an error.

Place in the way of a read: below the engine, above the router.  `read` waits; behind it, one flight per
chunk (see `flights`) goes to the router, is decoded and verified, wakes all who wait, and goes on into the cache.

Every wait has an end: the deadline belongs to the chunk, starting with its first reader.

Threads: callers in any number; a few fetch threads (see `crew`), each with a batch of chunks at a time (see `flight`),
of which those that arrive together are decoded together, while none waits for another to arrive; the cache's
writer (see `memory`).  What is requested before anybody waits for it, or comes from the `Feeder`, is fetched by the
threads of `background`, which all mounts of a process share.
`_lock` guards the flights, the queue and what the threads know of each other.  Nothing is fetched, decoded, read from
the cache or waited for under it but work for a fetch thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from zerofs.errors import ZerofsError
from zerofs.fetch.background import Background, Transfer, shared_background
from zerofs.fetch.crew import Crew
from zerofs.fetch.delivery import Delivery
from zerofs.fetch.flight import MOST_CHUNKS, Done, Flight, FlightQueue, name_of
from zerofs.fetch.flights import FetchStats, Flights, again
from zerofs.fetch.memory import ChunkMemory
from zerofs.flist.model import Chunk
from zerofs.store.pool import unhurried

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.fetch.protocols import ChunkSource, Feeder
    from zerofs.store.link import Link

CLOSE_PATIENCE = 1.0  # seconds for fetch threads that are decoding
MOST_PARKED = 256  # chunks of a feeder that wait for room on the way to their store, while others have some


class Fetcher:
    """Fetches chunks from `router` and brings them into `cache` (None: they are only served).

    `timeout`: seconds that a read may wait.  `threads`: at most so many fetch at the same time what readers
    wait for.  `background`: who fetches the rest; None: the one that this process shares.
    """

    def __init__(
        self,
        router: ChunkSource,
        cache: ChunkCache | None,
        *,
        timeout: float = 30.0,
        threads: int = 4,
        allow_unverified: bool = False,
        background: Background | None = None,
    ) -> None:
        self._background = background or shared_background()
        self._feeder: Feeder | None = None
        self._fetching_ahead = 0  # batches that the background has of us
        self._router = router
        self._timeout = timeout
        self._memory = ChunkMemory(cache)
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)  # when the background has nothing of us
        self._queue = FlightQueue()
        self._crew = Crew(self._lock, self._queue, self._bring, max(1, threads))
        self._flights = Flights(self._lock, self._queue, self._memory, self._crew.wake, timeout)
        self._delivery = Delivery(
            router,
            cache,
            self._memory,
            self._flights.serve,
            timeout=timeout,
            allow_unverified=allow_unverified,
        )

    # -- readers -----------------------------------------------------------------------------

    def read(self, chunk: Chunk) -> bytes:
        """The plain bytes of `chunk`.  Waits for them, at most until the chunk's deadline.

        Raises the ZerofsError that says why there are none.
        """
        found = self._flights.demand(chunk)
        return found if isinstance(found, bytes) else self._wait(found)

    def _wait(self, flight: Flight) -> bytes:
        with self._lock:
            waker = flight.waker()
        if not waker.wait(max(0.0, flight.deadline - time.monotonic())):
            self._flights.time_out(flight)
        if flight.plain is not None:
            return flight.plain
        assert flight.error is not None
        raise again(flight.error)

    def submit(self, chunk: Chunk, done: Done) -> None:
        """The same without waiting: `done` is called with the bytes or with the error.

        It is called once, from any thread, perhaps from this call; at the latest by the first `expire`
        after the chunk's deadline, or by `close`.
        """
        try:
            found = self._flights.demand(chunk, done)
        except ZerofsError as error:
            done(None, error)
            return
        if isinstance(found, bytes):
            done(found, None)

    def expire(self) -> None:
        """End the flights whose deadline is over: those who do not wait themselves rely on it."""
        self._flights.expire()

    def stats(self) -> FetchStats:
        return self._flights.stats()

    def latency(self) -> dict[str, object]:
        """How long readers waited for the chunks that they got, from the first who wanted it; see `Histogram`."""
        return self._flights.latency()

    def close(self) -> None:
        """Fail whoever waits, end all threads and commit what is decoded."""
        self._background.leave(self)
        with self._lock:
            self._delivery.close()
            self._feeder = None
            flights = self._flights.close()
            threads = self._crew.close()
        deadline = time.monotonic() + CLOSE_PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            self._settled.wait_for(lambda: not self._fetching_ahead, max(0.0, deadline - time.monotonic()))
        for flight in flights:
            flight.tell()
        self._memory.close()

    def _bring(self, batch: Sequence[Flight]) -> None:
        """What a thread of the crew does."""
        self._delivery.bring(batch, Transfer(self._background), self._flights.fail, hedged=True)

    # -- the background ----------------------------------------------------------------------

    def request(self, chunks: Iterable[Chunk], done: Done | None = None) -> int:
        """Fetch `chunks` into the cache in the background; returns how many were accepted.

        `done` is called for each of those, as for `submit`; what is on its way already is not accepted.
        """
        accepted = self._accept(iter(chunks), done)
        if accepted:
            self._background.wake(self)
        return accepted

    def _accept(self, chunks: Iterator[Chunk], done: Done | None) -> int:
        """Queue flights for those that are not on their way, until the queue is full; how many."""
        accepted = 0
        while piece := list(islice(chunks, MOST_CHUNKS)):
            with self._lock:
                for chunk in piece:
                    name = name_of(chunk)
                    if self._flights.is_needless(chunk, name):
                        continue
                    if not self._flights.launch_ahead(self._flight_ahead(chunk, name, done)):
                        return accepted
                    accepted += 1
        return accepted

    def feed(self, feeder: Feeder | None) -> None:
        """From now on fetch in the background what `feeder` knows, once `wake_background` was called."""
        with self._lock:
            self._feeder = feeder

    def wake_background(self) -> None:
        """The feeder has something to fetch."""
        if not self._flights.closing:
            self._background.wake(self)

    def take_ahead(self, room: Callable[[Link], int]) -> list[Flight]:
        """For `background`: see there."""
        while True:
            with self._lock:
                batch = [] if self._flights.closing else self._queue.take_ahead(room)
                feeder = self._feeder if self._queue.waiting < MOST_PARKED else None
            if batch or feeder is None:
                return batch
            most = max(map(room, self._router.ways()), default=0)
            if not most or not self._launch_ahead(feeder.take(most)):
                return []

    def _launch_ahead(self, wanted: Sequence[tuple[Chunk, Done]]) -> int:
        """Queue flights for those of `wanted` that nobody has or waits for, and count them; the others are told so."""
        launched = 0
        needless: list[Done] = []
        with self._lock:
            for chunk, done in wanted:
                name = name_of(chunk)
                if not self._flights.is_needless(chunk, name) and self._flights.launch_ahead(
                    self._flight_ahead(chunk, name, done)
                ):
                    launched += 1
                else:
                    needless.append(done)
        for done in needless:
            done(None, None)
        return launched

    def _flight_ahead(self, chunk: Chunk, name: bytes, done: Done | None) -> Flight:
        """A flight that nobody waits for.  Its deadline begins when it is asked for."""
        deadline = time.monotonic() + self._timeout
        way = self._router.way_to(chunk.id)
        return Flight(chunk, name, deadline, demanded=False, way=way, done=done)

    def fetch_ahead(self, batch: Sequence[Flight], transfer: Transfer) -> None:
        """For `background`: see there."""
        with self._lock:
            if self._flights.closing:
                return  # `close` has ended the flights, and does not wait for what begins now
            self._fetching_ahead += 1
        try:
            # what is late is nobody's yet, and a second request would be one that the budget does not know
            with unhurried():
                self._delivery.bring(batch, transfer, self._flights.fail_ahead, hedged=False)
        finally:
            with self._lock:
                self._fetching_ahead -= 1
                if self._flights.closing:
                    self._settled.notify_all()
