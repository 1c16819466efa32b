"""Who waits for which chunk: all flights of a fetcher, how they end, and what is counted of them.

Place: `fetcher` asks here for whoever wants a chunk, and `delivery` tells here what has arrived.  A chunk has one
flight, however many wait for it, and its deadline begins with the first of them.  A failure is remembered for a few
seconds and answered from memory, because the kernel sends a failing read twice.

Threads: any.  The fetcher's lock guards the table, the queue, the failures and the counts.  Nothing is fetched,
decoded, read from the cache or waited for under it, and nobody is told of a flight's end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from zerofs.errors import StoreTimeoutError, ZerofsError
from zerofs.fetch.delivery import Arrived, closing_error
from zerofs.fetch.failures import Failures
from zerofs.fetch.flight import Done, Flight, FlightQueue, name_of
from zerofs.fetch.memory import ChunkMemory
from zerofs.flist.model import Chunk
from zerofs.histogram import Histogram


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


class Flights:
    """Those of a fetcher, whose are the `lock` and the `queue`.  `wake` has a thread look there; called under the lock.

    `timeout`: seconds that a reader may wait.
    """

    def __init__(
        self,
        lock: threading.Lock,
        queue: FlightQueue,
        memory: ChunkMemory,
        wake: Callable[[], None],
        timeout: float,
    ) -> None:
        self._lock = lock
        self._queue = queue
        self._memory = memory
        self._wake = wake
        self._timeout = timeout
        self.of_chunk: dict[Chunk, Flight] = {}
        self.failures = Failures()
        self.closing = False
        self._counts = dict.fromkeys(FetchStats._fields, 0)
        self._latency = Histogram()

    def stats(self) -> FetchStats:
        cached, uncached = self._memory.stats()
        with self._lock:
            return FetchStats(**{**self._counts, "cached": cached, "uncached": uncached})

    def latency(self) -> dict[str, object]:
        """How long readers waited for the chunks that they got, from the first who wanted it; see `Histogram`."""
        with self._lock:
            return self._latency.as_dict()

    # -- those who want a chunk --------------------------------------------------------------

    def demand(self, chunk: Chunk, done: Done | None = None) -> bytes | Flight:
        """Bytes that are there, or the flight that brings them and calls `done`; raises a remembered failure."""
        name = name_of(chunk)
        with self._lock:
            self._counts["demanded"] += 1
            if (plain := self._memory.find(name)) is not None:
                self._counts["from_memory"] += 1
                return plain
            if (error := self.failures.recall(chunk)) is not None:
                self._counts["remembered_failures"] += 1
                raise again(error)
            flight = self.of_chunk.get(chunk)
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
            self._wake()

    def _launch(self, chunk: Chunk, name: bytes, done: Done | None) -> Flight:
        """Start a flight that somebody waits for.  Under the lock."""
        if self.closing:
            raise closing_error()
        now = time.monotonic()
        flight = Flight(chunk, name, now + self._timeout, demanded=True, done=done)
        flight.wanted = now
        self._queue.add(flight)
        self.of_chunk[chunk] = flight
        self._wake()
        return flight

    def is_needless(self, chunk: Chunk, name: bytes) -> bool:
        """Whether the background need not fetch a chunk: it is here, or on its way.  Under the lock."""
        return self.closing or chunk in self.of_chunk or self._memory.find(name) is not None

    def launch_ahead(self, flight: Flight) -> bool:
        """Queue a flight that nobody waits for; False where there is no room.  Under the lock."""
        if not self._queue.add(flight):
            return False
        self.of_chunk[flight.chunk] = flight
        self._counts["requested"] += 1
        return True

    # -- how flights end ---------------------------------------------------------------------

    def serve(self, arrived: Arrived) -> None:
        """End flights with their bytes; what is late for its readers was kept for the next ones."""
        good = arrived.good
        with self._lock:
            self._count(arrived)
            now = time.monotonic()
            for flight, plain in good:
                self.failures.forget(flight.chunk)
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

    def fail(self, flight: Flight, error: ZerofsError) -> None:
        """End a flight with an error, unless it has landed."""
        with self._lock:
            if flight.landed:
                return
            self._end(flight)
            self._counts["failures"] += 1
            if flight.demanded:
                self.failures.remember(flight.chunk, error)
            flight.land(error=error)
        flight.tell()

    def fail_ahead(self, flight: Flight, error: ZerofsError) -> None:
        """End a flight of the background with an error; one that a reader has joined begins anew for that reader."""
        with self._lock:
            anew = flight.demanded and not flight.landed and not self.closing
            if anew:
                flight.taken = False
                self._queue.add(flight)
                self._wake()
        if not anew:
            self.fail(flight, error)

    def time_out(self, flight: Flight) -> None:
        error = StoreTimeoutError(f"a chunk did not arrive within {self._timeout:g} s")
        with self._lock:
            self._counts["timeouts"] += 1
        self.fail(flight, error)

    def expire(self) -> None:
        """End those whose deadline is over and that somebody is told of."""
        now = time.monotonic()
        with self._lock:
            late = [flight for flight in self.of_chunk.values() if flight.told and flight.deadline <= now]
        for flight in late:
            self.time_out(flight)

    def close(self) -> list[Flight]:
        """End all of them, and let none begin; returns those that are to be told.  Under the lock."""
        self.closing = True
        self._queue.clear()
        flights = list(self.of_chunk.values())
        for flight in flights:
            flight.land(error=closing_error())
        self.of_chunk.clear()
        return flights

    def _end(self, flight: Flight) -> None:
        """Take a flight off the table.  Under the lock."""
        if self.of_chunk.get(flight.chunk) is flight:
            del self.of_chunk[flight.chunk]


def again(error: ZerofsError) -> ZerofsError:
    """An error for one more reader: raising one object in many threads would pile up tracebacks."""
    return type(error)(str(error), hint=error.hint)
