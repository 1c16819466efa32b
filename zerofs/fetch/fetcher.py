"""The fetcher: whoever needs a chunk that is not in the cache asks here, and gets bytes or an error.

Place in the way of a read: below the engine, above the router.  `read` waits; behind it, one flight per
chunk goes to the router, is decoded and verified, wakes all who wait, and goes on into the cache.

Every wait has an end: the deadline belongs to the chunk, starting with its first reader.  A failure is
remembered for a few seconds and answered from memory, because the kernel sends a failing read twice.

Threads: callers in any number; a few fetch threads, started when they are first needed, each with a
batch of chunks at a time (see `flight`), of which those that arrive together are decoded together, while
none waits for another to arrive; the cache's writer (see `memory`).  What is requested before anybody waits
for it, or comes from the `Feeder`, is fetched by the threads of `background`, which all mounts of a process share.
`_lock` guards the tables of flights and failures, the queue and the counters.  Nothing is fetched,
decoded, read from the cache or waited for under it but work for a fetch thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from zerofs.errors import StoreTimeoutError, ZerofsError
from zerofs.fetch.background import Background, Transfer, shared_background
from zerofs.fetch.delivery import Arrived, Delivery, closing_error
from zerofs.fetch.failures import Failures
from zerofs.fetch.flight import MOST_CHUNKS, Done, Flight, FlightQueue, name_of
from zerofs.fetch.memory import ChunkMemory
from zerofs.flist.model import Chunk
from zerofs.histogram import Histogram
from zerofs.store.pool import unhurried

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.fetch.protocols import ChunkSource, Feeder
    from zerofs.store.link import Link

CLOSE_PATIENCE = 1.0  # seconds for fetch threads that are decoding
MOST_PARKED = 256  # chunks of a feeder that wait for room on the way to their store, while others have some


class FetchStats(NamedTuple):
    """Counts since the start.  Chunks, where nothing else is said."""

    demanded: int = 0  # calls of `read`
    from_memory: int = 0  # calls answered by a chunk on its way into the cache, or one without a place there
    from_cache: int = 0  # calls, and flights, that found the chunk in the cache after all
    joined: int = 0  # calls that waited for a flight of another
    remembered_failures: int = 0  # calls answered by an earlier failure
    requested: int = 0  # in the background
    fetched: int = 0
    fetched_bytes: int = 0  # as they came from a store
    plain_bytes: int = 0
    failures: int = 0  # flights that ended in an error
    timeouts: int = 0  # calls that ended at the chunk's deadline
    verify_failures: int = 0  # payloads that were refused
    cached: int = 0
    uncached: int = 0


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
        self._most_threads = max(1, threads)
        self._memory = ChunkMemory(cache)
        self._delivery = Delivery(
            router, cache, self._memory, self._serve, timeout=timeout, allow_unverified=allow_unverified
        )
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queue = FlightQueue()
        self._flights: dict[Chunk, Flight] = {}
        self._failures = Failures()
        self._threads: list[threading.Thread] = []
        self._idle = 0  # threads that sleep
        self._called = 0  # threads that were woken or started and have not looked for work yet
        self._counts = dict.fromkeys(FetchStats._fields, 0)
        self._latency = Histogram()
        self._closing = False

    def read(self, chunk: Chunk) -> bytes:
        """The plain bytes of `chunk`.  Waits for them, at most until the chunk's deadline.

        Raises the ZerofsError that says why there are none.
        """
        found = self._demand(chunk)
        return found if isinstance(found, bytes) else self._wait(found)

    def submit(self, chunk: Chunk, done: Done) -> None:
        """The same without waiting: `done` is called with the bytes or with the error.

        It is called once, from any thread, perhaps from this call; at the latest by the first `expire`
        after the chunk's deadline, or by `close`.
        """
        try:
            found = self._demand(chunk, done)
        except ZerofsError as error:
            done(None, error)
            return
        if isinstance(found, bytes):
            done(found, None)

    def expire(self) -> None:
        """End the flights whose deadline is over: those who do not wait themselves rely on it."""
        now = time.monotonic()
        with self._lock:
            late = [flight for flight in self._flights.values() if flight.told and flight.deadline <= now]
        for flight in late:
            self._time_out(flight)

    def request(self, chunks: Iterable[Chunk], done: Done | None = None) -> int:
        """Fetch `chunks` into the cache in the background; returns how many were accepted.

        `done` is called for each of those, as for `submit`; what is on its way already is not accepted.
        """
        accepted = 0
        source = iter(chunks)
        while piece := list(islice(source, MOST_CHUNKS)):
            with self._lock:
                for chunk in piece:
                    name = name_of(chunk)
                    if self._closing or chunk in self._flights or self._memory.find(name) is not None:
                        continue
                    flight = self._flight_ahead(chunk, name)
                    if not self._queue.add(flight):
                        return accepted
                    if done is not None:
                        flight.told.append(done)
                    self._flights[chunk] = flight
                    self._counts["requested"] += 1
                    accepted += 1
        if accepted:
            self._background.wake(self)
        return accepted

    def feed(self, feeder: Feeder | None) -> None:
        """From now on fetch in the background what `feeder` knows, once `wake_background` was called."""
        with self._lock:
            self._feeder = feeder

    def wake_background(self) -> None:
        """The feeder has something to fetch."""
        if not self._closing:
            self._background.wake(self)

    def stats(self) -> FetchStats:
        cached, uncached = self._memory.stats()
        with self._lock:
            return FetchStats(**{**self._counts, "cached": cached, "uncached": uncached})

    def latency(self) -> dict[str, object]:
        """How long readers waited for the chunks that they got, from the first who wanted it; see `Histogram`."""
        with self._lock:
            return self._latency.as_dict()

    def close(self) -> None:
        """Fail whoever waits, end all threads and commit what is decoded."""
        self._background.leave(self)
        with self._lock:
            self._closing = True
            self._delivery.close()
            self._feeder = None
            self._queue.clear()
            flights = list(self._flights.values())
            for flight in flights:
                flight.land(error=closing_error())
            self._flights.clear()
            self._work.notify_all()
            threads = list(self._threads)
        deadline = time.monotonic() + CLOSE_PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            self._work.wait_for(lambda: not self._fetching_ahead, max(0.0, deadline - time.monotonic()))
        for flight in flights:
            flight.tell()
        self._memory.close()

    # -- readers -----------------------------------------------------------------------------

    def _demand(self, chunk: Chunk, done: Done | None = None) -> bytes | Flight:
        """Bytes that are there, or the flight that brings them and calls `done`; raises a remembered failure."""
        name = name_of(chunk)
        with self._lock:
            self._counts["demanded"] += 1
            if (plain := self._memory.find(name)) is not None:
                self._counts["from_memory"] += 1
                return plain
            if (error := self._failures.recall(chunk)) is not None:
                self._counts["remembered_failures"] += 1
                raise _again(error)
            flight = self._flights.get(chunk)
            if flight is None:
                return self._launch(chunk, name, done)
            self._join(flight)
            if done is not None:
                flight.told.append(done)
            return flight

    def _join(self, flight: Flight) -> None:
        """One more waits for a flight.  Under the lock."""
        self._counts["joined"] += 1
        if not flight.demanded:
            flight.wanted = time.monotonic()
            flight.deadline = flight.wanted + self._timeout
            self._queue.promote(flight)
            self._wake_threads()

    def _launch(self, chunk: Chunk, name: bytes, done: Done | None) -> Flight:
        """Start a flight that somebody waits for.  Under the lock."""
        if self._closing:
            raise closing_error()
        now = time.monotonic()
        flight = Flight(chunk, name, now + self._timeout, demanded=True, done=done)
        flight.wanted = now
        self._queue.add(flight)
        self._flights[chunk] = flight
        self._wake_threads()
        return flight

    def _wait(self, flight: Flight) -> bytes:
        with self._lock:
            waker = flight.waker()
        if not waker.wait(max(0.0, flight.deadline - time.monotonic())):
            self._time_out(flight)
        if flight.plain is not None:
            return flight.plain
        assert flight.error is not None
        raise _again(flight.error)

    def _time_out(self, flight: Flight) -> None:
        error = StoreTimeoutError(f"a chunk did not arrive within {self._timeout:g} s")
        with self._lock:
            self._counts["timeouts"] += 1
        self._fail(flight, error)

    # -- flights -----------------------------------------------------------------------------

    def _wake_threads(self) -> None:
        """Have somebody look at what is queued.  Under the lock."""
        if self._idle:
            self._idle -= 1
            self._called += 1
            self._work.notify()
        elif len(self._threads) < self._most_threads and len(self._queue) > self._called:
            # A daemon: a store that does not answer must not keep the process from ending.
            thread = threading.Thread(target=self._run, name=f"fetch-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
            self._called += 1

    def _serve(self, arrived: Arrived) -> None:
        """End flights with their bytes; what is late for its readers was kept for the next ones."""
        good = arrived.good
        with self._lock:
            self._count(arrived)
            now = time.monotonic()
            for flight, plain in good:
                self._failures.forget(flight.chunk)
                if not flight.landed:
                    self._end(flight)
                    if flight.demanded:
                        self._latency.add(now - flight.wanted)
                    flight.land(plain=plain)
        for flight, _ in good:
            flight.tell()

    def _count(self, arrived: Arrived) -> None:
        """Under the lock."""
        if arrived.from_cache:
            self._counts["from_cache"] += len(arrived.good)
            return
        self._counts["verify_failures"] += arrived.refused
        self._counts["fetched"] += len(arrived.good)
        self._counts["fetched_bytes"] += arrived.payload
        self._counts["plain_bytes"] += sum([len(plain) for _, plain in arrived.good])

    def _fail(self, flight: Flight, error: ZerofsError) -> None:
        """End a flight with an error, unless it has landed."""
        with self._lock:
            if flight.landed:
                return
            self._end(flight)
            self._counts["failures"] += 1
            if flight.demanded:
                self._failures.remember(flight.chunk, error)
            flight.land(error=error)
        flight.tell()

    def _end(self, flight: Flight) -> None:
        """Take a flight off the table.  Under the lock."""
        if self._flights.get(flight.chunk) is flight:
            del self._flights[flight.chunk]

    # -- fetch threads -----------------------------------------------------------------------

    def _run(self) -> None:
        with self._lock:
            self._called -= 1
            batch = self._next_batch()
        while batch:
            self._delivery.bring(batch, Transfer(self._background), self._fail, hedged=True)
            with self._lock:
                batch = self._next_batch()

    def _next_batch(self) -> list[Flight]:
        """What this thread is to fetch; empty when it is to end.  Under the lock."""
        while not self._closing:
            free = 1 + self._idle + self._called + self._most_threads - len(self._threads)
            if batch := self._queue.take(free):
                return batch
            self._idle += 1
            self._work.wait()
            self._called -= 1
        return []

    def take_ahead(self, room: Callable[[Link], int]) -> list[Flight]:
        """For `background`: see there."""
        while True:
            with self._lock:
                batch = [] if self._closing else self._queue.take_ahead(room)
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
                if self._closing or chunk in self._flights or self._memory.find(name) is not None:
                    needless.append(done)
                    continue
                flight = self._flight_ahead(chunk, name)
                flight.told.append(done)
                self._flights[chunk] = flight
                self._queue.add(flight)
                self._counts["requested"] += 1
                launched += 1
        for done in needless:
            done(None, None)
        return launched

    def _flight_ahead(self, chunk: Chunk, name: bytes) -> Flight:
        """A flight that nobody waits for.  Its deadline begins when it is asked for."""
        deadline = time.monotonic() + self._timeout
        return Flight(chunk, name, deadline, demanded=False, way=self._router.way_to(chunk.id))

    def fetch_ahead(self, batch: Sequence[Flight], transfer: Transfer) -> None:
        """For `background`: see there."""
        with self._lock:
            if self._closing:
                return  # `close` has ended the flights, and does not wait for what begins now
            self._fetching_ahead += 1
        try:
            # what is late is nobody's yet, and a second request would be one that the budget does not know
            with unhurried():
                self._delivery.bring(batch, transfer, self._fail_ahead, hedged=False)
        finally:
            with self._lock:
                self._fetching_ahead -= 1
                if self._closing:
                    self._work.notify_all()

    def _fail_ahead(self, flight: Flight, error: ZerofsError) -> None:
        """End a flight of the background with an error; one that a reader has joined begins anew for that reader."""
        with self._lock:
            anew = flight.demanded and not flight.landed and not self._closing
            if anew:
                flight.taken = False
                self._queue.add(flight)
                self._wake_threads()
        if not anew:
            self._fail(flight, error)


def _again(error: ZerofsError) -> ZerofsError:
    """An error for one more reader: raising one object in many threads would pile up tracebacks."""
    return type(error)(str(error), hint=error.hint)
