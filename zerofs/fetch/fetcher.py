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

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from zerofs.chunk.batch import Request, decode_many
from zerofs.chunk.codec import Codec, cache_name
from zerofs.errors import ChunkError, ClosingError, StoreError, StoreTimeoutError, ZerofsError
from zerofs.fetch.background import Background, Transfer, shared_background
from zerofs.fetch.flight import MOST_CHUNKS, Done, Flight, FlightQueue
from zerofs.fetch.memory import ChunkMemory, Decoded
from zerofs.flist.model import Chunk
from zerofs.histogram import Histogram
from zerofs.store.pool import unhurried

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.store.base import Payload
    from zerofs.store.link import Link

logger = logging.getLogger(__name__)

FAILURE_MEMORY = 3.0  # seconds
MOST_FAILURES = 4096  # remembered at a time
CLOSE_PATIENCE = 1.0  # seconds for fetch threads that are decoding
MOST_PARKED = 256  # chunks of a feeder that wait for room on the way to their store, while others have some


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


class _ClosingError(Exception):
    """Ends a fetch whose result nobody wants any more."""


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
        self._cache = cache
        self._timeout = timeout
        self._most_threads = max(1, threads)
        self._allow_unverified = allow_unverified
        self._memory = ChunkMemory(cache)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queue = FlightQueue()
        self._flights: dict[Chunk, Flight] = {}
        self._failures: dict[Chunk, tuple[float, ZerofsError]] = {}  # until when, what
        self._threads: list[threading.Thread] = []
        self._idle = 0
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
            found = self._demand(chunk)
        except ZerofsError as error:
            done(None, error)
            return
        if isinstance(found, bytes):
            done(found, None)
            return
        with self._lock:
            found.told.append(done)
        if found.landed:  # perhaps before we were on its list
            found.tell()

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
                    name = _memory_name(chunk)
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
            self._feeder = None
            self._queue.clear()
            flights = list(self._flights.values())
            for flight in flights:
                flight.land(error=_closing_error())
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

    def _demand(self, chunk: Chunk) -> bytes | Flight:
        """Bytes that are there, or the flight that brings them; raises a remembered failure."""
        name = _memory_name(chunk)
        with self._lock:
            self._counts["demanded"] += 1
            found = self._known(chunk, name)
            return self._launch(chunk, name) if found is None else found

    def _known(self, chunk: Chunk, name: bytes) -> bytes | Flight | None:
        """Bytes in memory, or a flight to wait for; raises a remembered failure.  Under the lock."""
        if (plain := self._memory.find(name)) is not None:
            self._counts["from_memory"] += 1
            return plain
        if failure := self._failures.get(chunk):
            until, error = failure
            if time.monotonic() < until:
                self._counts["remembered_failures"] += 1
                raise _again(error)
            del self._failures[chunk]
        flight = self._flights.get(chunk)
        if flight is not None:
            self._counts["joined"] += 1
            if not flight.demanded:
                flight.wanted = time.monotonic()
                flight.deadline = flight.wanted + self._timeout
                self._queue.promote(flight)
                self._wake_threads()
        return flight

    def _launch(self, chunk: Chunk, name: bytes) -> Flight:
        """Start a flight that somebody waits for.  Under the lock."""
        if self._closing:
            raise _closing_error()
        now = time.monotonic()
        flight = Flight(chunk, name, now + self._timeout, demanded=True)
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
        if len(self._queue) > self._idle and len(self._threads) < self._most_threads:
            # A daemon: a store that does not answer must not keep the process from ending.
            thread = threading.Thread(target=self._run, name=f"fetch-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        if self._idle:
            self._work.notify()

    def _serve(self, served: Sequence[tuple[Flight, bytes]]) -> None:
        """End flights with their bytes; what is late for its readers was kept for the next ones."""
        with self._lock:
            now = time.monotonic()
            for flight, plain in served:
                self._failures.pop(flight.chunk, None)
                if not flight.landed:
                    self._end(flight)
                    if flight.demanded:
                        self._latency.add(now - flight.wanted)
                    flight.land(plain=plain)
        for flight, _ in served:
            flight.tell()

    def _fail(self, flight: Flight, error: ZerofsError) -> None:
        """End a flight with an error, unless it has landed."""
        with self._lock:
            if flight.landed:
                return
            self._end(flight)
            self._counts["failures"] += 1
            if flight.demanded:
                self._remember(flight.chunk, error)
            flight.land(error=error)
        flight.tell()

    def _end(self, flight: Flight) -> None:
        """Take a flight off the table.  Under the lock."""
        if self._flights.get(flight.chunk) is flight:
            del self._flights[flight.chunk]

    def _remember(self, chunk: Chunk, error: ZerofsError) -> None:
        now = time.monotonic()
        if len(self._failures) >= MOST_FAILURES:
            self._failures = {key: value for key, value in self._failures.items() if value[0] > now}
        if len(self._failures) < MOST_FAILURES:
            self._failures[chunk] = (now + FAILURE_MEMORY, error)

    # -- fetch threads -----------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next_batch():
            self._fetch(batch, Transfer(self._background), self._fail, hedged=True)

    def _next_batch(self) -> list[Flight]:
        """What this thread is to fetch; empty when it is to end."""
        with self._lock:
            while not self._closing:
                free = 1 + self._idle + self._most_threads - len(self._threads)
                if batch := self._queue.take(free):
                    return batch
                self._idle += 1
                self._work.wait()
                self._idle -= 1
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
                name = _memory_name(chunk)
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
                self._fetch(batch, transfer, self._fail_ahead, hedged=False)
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

    def _fetch(
        self,
        batch: Sequence[Flight],
        transfer: Transfer,
        give_up: Callable[[Flight, ZerofsError], None],
        *,
        hedged: bool,
    ) -> None:
        """Bring every flight of `batch` to its end; `give_up` gets those that cannot be had."""
        flights = self._unsettled(batch)
        error: ZerofsError = StoreError("no store answered for a chunk")

        def judge(arrived: Sequence[tuple[int, Payload]]) -> list[ChunkError | None]:
            payload_size = sum(len(payload) for _, payload in arrived)
            transfer.arrived(payload_size, sum(flights[index].chunk.size for index, _ in arrived))
            return self._judge([(flights[index], payload) for index, payload in arrived])

        failed: set[Flight] = set()

        def fail(index: int, error: ZerofsError) -> None:
            failed.add(flights[index])
            give_up(flights[index], error)

        try:
            if flights:
                ids = [flight.chunk.id for flight in flights]
                deadline = max(flight.deadline for flight in flights)
                self._router.fetch_batches(ids, judge, fail, deadline, hedged=hedged)
        except _ClosingError:
            error = _closing_error()
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
        found: list[tuple[Flight, bytes]] = []
        lacking: list[Flight] = []
        with self._cache.snapshot() as snapshot:
            for flight in flights:
                plain = snapshot.read(flight.name)
                if plain is None:
                    lacking.append(flight)
                else:
                    found.append((flight, plain))
        if found:
            with self._lock:
                self._counts["from_cache"] += len(found)
            self._serve(found)
        return lacking

    def _judge(self, arrived: list[tuple[Flight, Payload]]) -> list[ChunkError | None]:
        """Decode and verify payloads that arrived together, and serve them; for each what is wrong with it."""
        if self._closing:
            raise _ClosingError
        requests = [Request(flight.chunk.key, payload, flight.chunk.size) for flight, payload in arrived]
        results = decode_many(requests, allow_unverified=self._allow_unverified)
        verdicts = [result if isinstance(result, ChunkError) else None for result in results]
        good = [
            (flight, result)
            for (flight, _), result in zip(arrived, results, strict=True)
            if not isinstance(result, ChunkError)
        ]
        with self._lock:
            self._counts["verify_failures"] += len(results) - len(good)
            self._counts["fetched"] += len(good)
            self._counts["fetched_bytes"] += sum(
                len(payload) for (_, payload), fault in zip(arrived, verdicts, strict=True) if fault is None
            )
            self._counts["plain_bytes"] += sum(len(plain) for _, plain in good)
        self._memory.keep(
            Decoded(flight.name, plain, flight.name[0] != Codec.UNKNOWN) for flight, plain in good
        )
        self._serve(good)
        self._memory.wait_for_room()
        return verdicts


def _memory_name(chunk: Chunk) -> bytes:
    """Names the plain bytes of a chunk.  An unverifiable key proves nothing: there the id counts, too."""
    name = cache_name(chunk.key)
    return name + chunk.id if name[0] == Codec.UNKNOWN else name


def _again(error: ZerofsError) -> ZerofsError:
    """An error for one more reader: raising one object in many threads would pile up tracebacks."""
    return type(error)(str(error), hint=error.hint)


def _closing_error() -> ZerofsError:
    return ClosingError("the mount is coming down")
