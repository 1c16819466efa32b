"""A mount played through: a recorded trace, a scripted store behind a link, and a clock that only events move.

The plan and the budget are the real ones; the reader, the cache, the link and the threads of the background are
played.  The same input gives the same numbers, so they can be compared with those of `baseline.json`, which
``python -m tests.prefetch.simulation`` writes anew.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tests.prefetch.support import NumberCache, NumberTree
from zerofs.fetch.background import THREADS
from zerofs.fetch.budget import Budget
from zerofs.prefetch.merge import merged, worth_replaying
from zerofs.prefetch.plan import Outcome, Plan
from zerofs.prefetch.profile import Profile
from zerofs.prefetch.recorder import Recorder
from zerofs.store.link import Link

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
COMPRESSION = 0.45  # payload bytes to a plain byte


class Trace(NamedTuple):
    """What a reader wants: (seconds since the first, row, first, last)."""

    tree: NumberTree
    touches: list[tuple[float, int, int, int]]


def load_trace() -> Trace:
    data = json.loads((HERE / "trace.json").read_text())
    files = {int(row): numbers for row, numbers in data["files"].items()}
    tree = NumberTree(files, dict(enumerate(data["sizes"])))
    return Trace(tree, [(at / 1e6, row, first, last) for at, row, first, last in data["touches"]])


class Wait(NamedTuple):
    """A reader's wait for a chunk, in seconds, and the bound on it."""

    number: int
    seconds: float
    bound: float


class Simulation:
    """One reader of `trace` over a link of `rtt` seconds and `bandwidth` payload bytes a second."""

    def __init__(
        self,
        trace: Trace,
        *,
        rtt: float = 0.02,
        bandwidth: float = 12.5e6,
        replay: Sequence[int] = (),
        prefetch: bool = True,
        cached: Sequence[int] = (),
        rate: float | None = None,
        changes: Sequence[tuple[float, float, float]] = (),
    ) -> None:
        """`changes`: (seconds, round trip, bandwidth) of the link from then on."""
        self.now = 0.0
        self.requests = self.bytes = 0
        self.waits: list[Wait] = []
        self.most_in_flight = 0.0  # as a share of the window
        self.windows: list[tuple[float, int]] = []  # when something was asked for ahead, and the bound on it
        self.budget = Budget(lambda: self.now, rate=rate)
        self.link = Link()
        self.cache = NumberCache(cached)
        self.plan = Plan(trace.tree, self.cache.has)
        self.recorder = Recorder(bytes(32), trace.tree.chunk_count, Path("unused"))
        self._trace = trace
        self._rtt, self._bandwidth = rtt, bandwidth
        self._prefetch = prefetch
        self._link_free = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._idle = THREADS
        self._flying: set[int] = set()
        self._awaited: dict[int, tuple[float, float]] = {}
        self._next_touch = 0
        for at, *conditions in changes:
            self._later(at, partial(self._change, *conditions))
        if replay:
            self.plan.replay(replay)
        self._pump()
        self._read()

    def run(self) -> Simulation:
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()
        return self

    # -- the reader ------------------------------------------------------------------------------

    def _read(self) -> None:
        """Go on until a chunk has to be waited for."""
        if self._next_touch == len(self._trace.touches):
            return
        _, row, first, last = self._trace.touches[self._next_touch]
        numbers = self._trace.tree.refs(row, first, last - first + 1)
        missing = tuple(number for number in numbers if number not in self.cache.numbers)
        for number in self.plan.touched(row, first, last, missing).numbers:
            self.recorder.wanted(number, self.now)
        alone = self._rtt
        for number in missing:  # of one read: they wait for each other anyway
            alone += self._payload(number) / self._bandwidth
            self._awaited[number] = (self.now, alone + self.budget.window(self.link) / self._bandwidth)
            if number not in self._flying:
                self._send([number], self._measured, lambda: None)
        self._pump()
        if not missing:
            self._think()

    def _think(self) -> None:
        at = self._trace.touches[self._next_touch][0]
        self._next_touch += 1
        if self._next_touch < len(self._trace.touches):
            self._later(self._trace.touches[self._next_touch][0] - at, self._read)

    # -- the background --------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._prefetch and (pause := self.budget.pause(self.link)) and self.plan.left:
            self._later(pause, self._pump)
            return
        while self._prefetch and self._idle and self.plan.left and (room := self.budget.room(self.link)):
            numbers = self.plan.take(room)
            batch = [number for number in numbers if number not in self._flying]
            for number in set(numbers) - set(batch):
                self.plan.landed(number, Outcome.NEEDLESS)
            if not batch:
                continue
            self._idle -= 1
            costs = {number: self.budget.cost(self._trace.tree.chunk_size(number)) for number in batch}
            for cost in costs.values():
                self.budget.take(self.link, cost)
            window = self.budget.window(self.link)
            self.most_in_flight = max(self.most_in_flight, self.budget.in_flight / window)
            self.windows.append((self.now, window))

            def arrived(number: int, costs: dict[int, int] = costs) -> None:
                held, plain = costs[number], self._trace.tree.chunk_size(number)
                left = held - self.budget.arrived(self.link, held, self._payload(number), plain)
                self.budget.give(self.link, left)
                self.plan.landed(number, Outcome.BROUGHT)

            self._send(batch, arrived, self._rest)

    def _measured(self, number: int) -> None:
        self.budget.arrived(None, 0, self._payload(number), self._trace.tree.chunk_size(number))

    def _rest(self) -> None:
        self._idle += 1
        self._pump()

    # -- the link and the store ------------------------------------------------------------------

    def _change(self, rtt: float, bandwidth: float) -> None:
        self._rtt, self._bandwidth = rtt, bandwidth

    def _payload(self, number: int) -> int:
        return round(self._trace.tree.chunk_size(number) * COMPRESSION)

    def _send(self, numbers: list[int], arrived: Callable[[int], None], done: Callable[[], None]) -> None:
        """One request for several chunks: they come one after the other, behind what is on the link."""
        self.requests += 1
        self._flying.update(numbers)
        asked = self.link.begin(self.now)
        self._link_free = max(self._link_free, self.now + self._rtt / 2)
        for number in numbers:
            self._link_free += self._payload(number) / self._bandwidth

            def land(number: int = number) -> None:
                payload = self._payload(number)
                self.bytes += payload
                self.link.arrived(asked, self.now, payload)
                if number == numbers[-1]:
                    self.link.end(asked)
                self._flying.discard(number)
                self.cache.numbers.add(number)
                arrived(number)
                self._pump()
                self._wake_reader(number)

            self._later(self._link_free + self._rtt / 2 - self.now, land)
        self._later(self._link_free + self._rtt / 2 - self.now, done)

    def _wake_reader(self, number: int) -> None:
        if number in self._awaited:
            since, bound = self._awaited.pop(number)
            self.waits.append(Wait(number, self.now - since, bound))
            if not self._awaited:
                self._think()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))


def record(trace: Trace) -> Profile:
    """What a mount without prefetch records of `trace`."""
    return Simulation(trace, prefetch=False).run().recorder.recording()


def other_profile(trace: Trace) -> list[int]:
    """The profile of several recordings that differ: one in ten chunks is missing, or wanted by others only."""
    profile = record(trace)
    apart = [
        profile._replace(entries=tuple(entry for entry in profile.entries if entry.number % 10 != digit))
        for digit in (3, 3, 7)
    ]
    return worth_replaying(merged(apart))


def measure() -> dict[str, dict[str, float]]:
    """The numbers of the gate, by scenario."""
    trace = load_trace()
    half = trace._replace(touches=trace.touches[: len(trace.touches) // 2])
    profile = worth_replaying(record(trace))
    runs = {
        "no prefetch": Simulation(trace, prefetch=False),
        "readahead alone": Simulation(trace),
        "its own profile": Simulation(trace, replay=profile),
        "its own profile, 80 ms": Simulation(trace, replay=profile, rtt=0.08),
        "a profile of others": Simulation(trace, replay=other_profile(trace)),
        "half of what the profile knows": Simulation(half, replay=profile),
        "half is cached": Simulation(trace, replay=profile, cached=range(0, trace.tree.chunk_count, 2)),
    }
    results: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        counters = run.run().plan.counters
        results[name] = {
            "requests": run.requests,
            "bytes": run.bytes,
            "recall": round(counters.recall, 4),
            "precision": round(counters.precision, 4),
        }
    return results


if __name__ == "__main__":
    BASELINE.write_text(json.dumps(measure(), indent=1) + "\n")
