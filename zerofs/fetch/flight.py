"""One chunk on its way, and the queue of those that no thread has taken yet.

Place: `fetcher` makes a :class:`Flight` for a chunk that somebody wants and nobody has, however many
wait for it; its threads, and those of `background`, take flights from the :class:`FlightQueue` in batches.

The queue and the fields of a flight are guarded by the fetcher's lock; only `tell` is called without it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from zerofs.chunk.codec import Codec, cache_name
from zerofs.errors import ZerofsError
from zerofs.flist.model import Chunk
from zerofs.store.link import Link

logger = logging.getLogger(__name__)

MOST_CHUNKS = 64  # in a batch: small ones, pipelined in one go
MOST_BYTES = 4 << 20  # plain bytes in a batch: of more the processor's caches would have lost what came first
MOST_AHEAD = 4096  # flights that wait in the background; more are not accepted


Done = Callable[[bytes | None, ZerofsError | None], object]

_UNKNOWN = int(Codec.UNKNOWN)


def name_of(chunk: Chunk) -> bytes:
    """Names the plain bytes of a chunk.  An unverifiable key proves nothing: there the id counts, too."""
    name = cache_name(chunk.key)
    return name + chunk.id if name[0] == _UNKNOWN else name


def is_proven(name: bytes) -> bool:
    """Whether the bytes of that name are known to be right, so that others may have them, too."""
    return name[0] != _UNKNOWN


class Flight:
    """A chunk that is wanted.  It lands with `plain` or with `error`, once."""

    __slots__ = (
        "_waker",
        "chunk",
        "deadline",
        "demanded",
        "error",
        "landed",
        "name",
        "plain",
        "taken",
        "told",
        "wanted",
        "way",
    )

    def __init__(
        self,
        chunk: Chunk,
        name: bytes,
        deadline: float,
        *,
        demanded: bool,
        way: Link | None = None,
        done: Done | None = None,
    ) -> None:
        self.chunk = chunk
        self.name = name
        self.deadline = deadline  # time.monotonic(); that of the chunk, whoever waits for it
        self.demanded = demanded  # a reader waits for it
        self.wanted = 0.0  # time.monotonic() when a reader first did
        self.taken = False
        self.way = way  # to the store that is likely to be asked; known of what is fetched ahead
        self.plain: bytes | None = None
        self.error: ZerofsError | None = None
        # to be called once it has landed, without the fetcher's lock
        self.told: list[Done] = [] if done is None else [done]
        self.landed = False
        self._waker: threading.Event | None = None  # made for the first who waits: few flights have one

    def land(self, *, plain: bytes | None = None, error: ZerofsError | None = None) -> None:
        """Wake everybody who waits."""
        self.plain = plain
        self.error = error
        self.landed = True
        if self._waker is not None:
            self._waker.set()

    def tell(self) -> None:
        """Call everybody who asked to be called, each once.  Any thread, without the fetcher's lock."""
        while self.told:
            try:
                done = self.told.pop()
            except IndexError:
                return  # another thread was faster
            try:
                done(self.plain, self.error)
            except (
                Exception
            ):  # whoever else waits, for this chunk or for one of its batch, is told all the same
                logger.exception("telling that a chunk has come")

    def waker(self) -> threading.Event:
        """What is set when it lands."""
        if self._waker is None:
            self._waker = threading.Event()
            if self.landed:
                self._waker.set()
        return self._waker


class FlightQueue:
    """Flights in the order of their demand, and apart from them those that nobody waits for."""

    def __init__(self) -> None:
        self._demand: deque[Flight] = deque()
        self._ahead: dict[Link, deque[Flight]] = {}  # by their ways
        self._waiting = 0  # in those

    def __len__(self) -> int:
        """How many somebody waits for."""
        return len(self._demand)

    def add(self, flight: Flight) -> bool:
        """Queue a flight; False where there is no room left in the background."""
        if flight.demanded:
            self._demand.append(flight)
        elif self._waiting < MOST_AHEAD:
            assert flight.way is not None
            self._ahead.setdefault(flight.way, deque()).append(flight)
            self._waiting += 1
        else:
            return False
        return True

    @property
    def waiting(self) -> int:
        """How many nobody waits for, with those that somebody has come to wait for since."""
        return self._waiting

    def promote(self, flight: Flight) -> None:
        """A reader waits for a flight of the background now."""
        flight.demanded = True
        if not flight.taken:
            self._demand.append(flight)  # the other queue skips it

    def take(self, threads: int) -> list[Flight]:
        """A batch for one of `threads` that are free to share what is queued; empty where nothing is."""
        share = -(-len(self._demand) // max(1, threads))
        return _take(self._demand, min(share, MOST_CHUNKS), MOST_BYTES)

    def take_ahead(self, room: Callable[[Link], int]) -> list[Flight]:
        """A batch of what nobody waits for, by the first way on which there is `room` (bytes) for any."""
        for way, queue in list(self._ahead.items()):
            before = len(queue)
            while queue and queue[0].taken:
                queue.popleft()
            most_bytes = room(way) if queue else 0
            batch = _take(queue, MOST_CHUNKS, most_bytes) if most_bytes else []
            self._waiting -= before - len(queue)
            if not queue:
                del self._ahead[way]
            if batch:
                return batch
        return []

    def clear(self) -> Iterable[Flight]:
        """Empty it; returns what was in it."""
        left = [*self._demand, *(flight for queue in self._ahead.values() for flight in queue)]
        self._demand.clear()
        self._ahead.clear()
        self._waiting = 0
        return left


def _take(queue: deque[Flight], most_chunks: int, most_bytes: int) -> list[Flight]:
    batch: list[Flight] = []
    size = 0
    while queue and len(batch) < most_chunks:
        flight = queue[0]
        if not flight.taken:
            size += flight.chunk.size
            if batch and size > most_bytes:
                break
            flight.taken = True
            batch.append(flight)
        queue.popleft()
    return batch
