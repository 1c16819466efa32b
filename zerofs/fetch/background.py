"""What is fetched before anybody waits for it: a few threads for all the mounts of a process.

Role: the fetchers' second set of threads.  Demand never comes here and these never serve demand, so a reader
finds neither its thread nor its connection taken.  Who has something to fetch is a `Source` (a fetcher); the sources
are asked in turn, each for as much as the shared `Budget` has room for on the way to a store.

Threads: up to `THREADS`, started when there is work for them; without work, or without room, they sleep until
somebody calls.  One at a time takes a batch, so that the room it was told is still there when it has chosen.
`_changed` guards everything here, and is not held while a source is asked or fetches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from zerofs.fetch.budget import Budget
from zerofs.store.process import PerProcess

if TYPE_CHECKING:
    from zerofs.fetch.flight import Flight
    from zerofs.store.link import Link

logger = logging.getLogger(__name__)

THREADS = 8


class Source(Protocol):
    """Who has something to fetch."""

    def take_ahead(self, room: Callable[[Link], int]) -> list[Flight]:
        """The next batch, all of it by one way: up to `room(way)` plain bytes but at least one chunk.

        Empty where nothing is left, or where `room` said 0 for the ways of all that is.
        """
        ...

    def fetch_ahead(self, batch: Sequence[Flight], transfer: Transfer) -> None:
        """Bring every flight to its end, and tell `transfer` of what arrives.  Raises nothing."""
        ...


class Transfer:
    """One request of several chunks.  The budget holds `cost` bytes for it on the way `link`, none for readers."""

    def __init__(self, background: Background, link: Link | None = None, cost: int = 0) -> None:
        self._background = background
        self._link = link
        self._cost = cost

    def arrived(self, payload: int, plain: int) -> None:
        """Part of the answer is here: `payload` bytes that `plain` bytes were decoded from."""
        self._cost -= self._background.arrived(self._link, self._cost, payload, plain)

    def end(self) -> None:
        """Nothing more comes."""
        cost, self._cost = self._cost, 0
        if cost and self._link is not None:
            self._background.give(self._link, cost)


class _Need:
    """What is known of a source: whether there may be something, and whose room it waits for."""

    def __init__(self) -> None:
        self.hungry = True
        self.waits_for: set[Link] = set()


class Background:
    """The threads and their budget."""

    def __init__(self, budget: Budget | None = None, *, threads: int = THREADS) -> None:
        self._budget = budget or Budget(time.monotonic)
        self._most_threads = threads
        self._changed = threading.Condition()
        self._sources: dict[Source, _Need] = {}  # in the order of their turns
        self._refused: set[Link] = set()  # in this turn
        self._taking = False  # a thread has the turn
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def limit(self, rate: float) -> None:
        """Fetch at most `rate` bytes a second from now on; of several such bounds the lowest holds."""
        with self._changed:
            self._budget.limit(rate)

    def wake(self, source: Source) -> None:
        """There is something to fetch for `source`."""
        with self._changed:
            self._sources.setdefault(source, _Need()).hungry = True
            self._call()

    def leave(self, source: Source) -> None:
        """Nothing more is taken from `source`; what it was asked for goes on."""
        with self._changed:
            self._sources.pop(source, None)

    def in_flight(self) -> int:
        """Bytes that were asked for and are not here; an estimate."""
        with self._changed:
            return self._budget.in_flight

    # -- what transfers tell -----------------------------------------------------------------

    def arrived(self, link: Link | None, held: int, payload: int, plain: int) -> int:
        """Returns how many of the `held` bytes are given back to the budget."""
        with self._changed:
            given = self._budget.arrived(link, held, payload, plain)
            if given:
                self._call()
            return given

    def give(self, link: Link, cost: int) -> None:
        with self._changed:
            self._budget.give(link, cost)
            self._call()

    # -- threads -----------------------------------------------------------------------------

    def _call(self) -> None:
        """Wake or start a thread if there is something to do for it, now or soon.  Under the lock."""
        if self._taking or not (self._ready() or self._pause()):
            return
        if self._idle:
            self._changed.notify()
        elif len(self._threads) < self._most_threads:
            # A daemon: a store that does not answer must not keep the process from ending.
            thread = threading.Thread(target=self._run, name=f"ahead-{len(self._threads)}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads for us: those that there are go on
                logger.debug("no further thread: %s", error)
                return
            self._threads.append(thread)

    def _ready(self) -> Source | None:
        """Whose turn it is: the first who may have something for which there is room."""
        for source, need in self._sources.items():
            if need.hungry or any(self._budget.room(link) for link in need.waits_for):
                return source
        return None

    def _pause(self) -> float | None:
        """Seconds until there may be room although nothing arrives; None where that cannot be."""
        pauses = (self._budget.pause(link) for need in self._sources.values() for link in need.waits_for)
        return min((pause for pause in pauses if pause), default=None)

    def _run(self) -> None:
        while True:
            source = self._next_turn()
            batch: list[Flight] = []
            try:
                batch = source.take_ahead(self._room)
            except Exception:
                logger.exception("looking for what to fetch ahead")
            transfer = self._end_turn(source, batch)
            if batch:
                try:
                    source.fetch_ahead(batch, transfer)
                except Exception:
                    logger.exception("fetching ahead")
                finally:
                    transfer.end()

    def _next_turn(self) -> Source:
        """Wait for a turn; whose it is."""
        with self._changed:
            while True:
                source = None if self._taking else self._ready()
                if source is not None:
                    self._taking = True
                    self._refused = set()
                    need = self._sources.pop(source)
                    need.hungry = False  # `wake` may come while it is asked
                    need.waits_for = set()
                    self._sources[source] = need  # the last in line
                    return source
                self._idle += 1
                self._changed.wait(None if self._taking else self._pause())
                self._idle -= 1

    def _room(self, link: Link) -> int:
        """For the source whose turn it is."""
        with self._changed:
            room = self._budget.room(link)
            if not room:
                self._refused.add(link)
            return room

    def _end_turn(self, source: Source, batch: Sequence[Flight]) -> Transfer:
        """Book what a batch takes, and let the next thread have its turn."""
        with self._changed:
            self._taking = False
            link = batch[0].way if batch else None
            cost = self._budget.cost(sum(flight.chunk.size for flight in batch)) if link is not None else 0
            if link is not None:
                self._budget.take(link, cost)
            need = self._sources.get(source)
            if need is not None:
                need.hungry |= bool(batch)
                need.waits_for = self._refused
            self._call()
            return Transfer(self, link, cost)


_shared = PerProcess(Background)


def shared_background() -> Background:
    """The one of this process."""
    return _shared.get()
