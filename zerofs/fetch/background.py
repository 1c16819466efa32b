"""What is fetched before anybody waits for it: a few threads for all the mounts of a process.

Role: the fetchers' second set of threads.  Demand never comes here and these never serve demand, so a reader
finds neither its thread nor its connection taken.  Who has something to fetch is a `Source` (a fetcher); the sources
are asked in turn, each for as much as the shared `Budget` has room for.

Threads: up to `THREADS`, started when there is work for them; without work, or without room, they sleep until
somebody calls.  `_changed` guards everything here, and is not held while a source is asked or fetches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from zerofs.fetch.budget import Budget
from zerofs.fetch.link import Mark
from zerofs.store.process import PerProcess

if TYPE_CHECKING:
    from zerofs.fetch.flight import Flight

logger = logging.getLogger(__name__)

THREADS = 8


class Source(Protocol):
    """Who has something to fetch."""

    def take_ahead(self, room: int) -> list[Flight]:
        """The next batch, of up to `room` plain bytes but at least one chunk; empty where nothing is left."""
        ...

    def fetch_ahead(self, batch: Sequence[Flight], transfer: Transfer) -> None:
        """Bring every flight to its end, and tell `transfer` of what arrives.  Raises nothing."""
        ...


class Transfer:
    """One request of several chunks on the link, of which the budget holds `cost` bytes."""

    def __init__(self, background: Background, cost: int = 0) -> None:
        self._background = background
        self._mark = background.begin()
        self._answered = False
        self._cost = cost

    def arrived(self, payload: int, plain: int) -> None:
        """Part of the answer is here: `payload` bytes that `plain` bytes were decoded from."""
        self._cost -= self._background.arrived(
            self._mark, payload, plain, self._cost, first=not self._answered
        )
        self._answered = True

    def end(self) -> None:
        """Nothing more comes."""
        cost, self._cost = self._cost, 0
        if cost:
            self._background.give(cost)


class Background:
    """The threads and their budget."""

    def __init__(self, budget: Budget | None = None, *, threads: int = THREADS) -> None:
        self._budget = budget or Budget(time.monotonic)
        self._most_threads = threads
        self._changed = threading.Condition()
        self._sources: dict[Source, bool] = {}  # in the order of their turns → whether there may be something
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def wake(self, source: Source) -> None:
        """There is something to fetch for `source`."""
        with self._changed:
            if self._sources.get(source) is not True:
                self._sources[source] = True
            self._call()

    def leave(self, source: Source) -> None:
        """Nothing more is taken from `source`; what it was asked for goes on."""
        with self._changed:
            self._sources.pop(source, None)

    def in_flight(self) -> int:
        """Bytes that were asked for and are not here; an estimate."""
        with self._changed:
            return self._budget.in_flight

    def window(self) -> int:
        """The bound on that, in bytes."""
        with self._changed:
            return self._budget.window

    # -- what transfers tell -----------------------------------------------------------------

    def begin(self) -> Mark:
        with self._changed:
            return self._budget.link.begin(self._budget.clock())

    def arrived(self, mark: Mark, payload: int, plain: int, held: int, *, first: bool) -> int:
        """Measure; returns how many of the `held` bytes are given back to the budget."""
        with self._changed:
            now = self._budget.clock()
            if first:
                self._budget.link.answered(mark, now)
            given = min(held, self._budget.cost(plain))
            self._budget.link.arrived(mark, now, payload, plain)
            if given:
                self._budget.give(given)
                self._call()
            return given

    def give(self, cost: int) -> None:
        with self._changed:
            self._budget.give(cost)
            self._call()

    # -- threads -----------------------------------------------------------------------------

    def _call(self) -> None:
        """Wake or start a thread if there is something to do for it.  Under the lock."""
        if not any(self._sources.values()) or not self._may_start():
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

    def _may_start(self) -> bool:
        return self._budget.room() > 0 or self._budget.pause() > 0

    def _run(self) -> None:
        while True:
            source, room, reserved = self._next_turn()
            batch: list[Flight] = []
            try:
                batch = source.take_ahead(room)
            except Exception:
                logger.exception("looking for what to fetch ahead")
            cost = self._settle(source, batch, reserved)
            if batch:
                transfer = Transfer(self, cost)
                try:
                    source.fetch_ahead(batch, transfer)
                except Exception:
                    logger.exception("fetching ahead")
                finally:
                    transfer.end()

    def _next_turn(self) -> tuple[Source, int, int]:
        """Wait for a turn: whose it is, its room, and what is reserved of the budget for it meanwhile."""
        with self._changed:
            while True:
                source = next((each for each, hungry in self._sources.items() if hungry), None)
                room = self._budget.room() if source is not None else 0
                if source is not None and room:
                    del self._sources[source]
                    self._sources[source] = False  # the last in line; `wake` may come while it is asked
                    reserved = self._budget.cost(room)
                    self._budget.in_flight += reserved
                    return source, room, reserved
                pause = self._budget.pause() if source is not None else 0.0
                self._idle += 1
                self._changed.wait(pause or None)
                self._idle -= 1

    def _settle(self, source: Source, batch: Sequence[Flight], reserved: int) -> int:
        """Book what a batch really takes instead of what was reserved for it."""
        with self._changed:
            self._budget.give(reserved)
            cost = self._budget.cost(sum(flight.chunk.size for flight in batch))
            if batch:
                self._budget.take(cost)
                if source in self._sources:
                    self._sources[source] = True
            self._call()
            return cost


_shared = PerProcess(Background)


def shared_background() -> Background:
    """The one of this process."""
    return _shared.get()
