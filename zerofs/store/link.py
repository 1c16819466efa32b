"""How fast the way to a store is, measured on what comes over it anyway.

Role: kept by `destination`, one per store and process; the background bounds by it what it may have in flight there.
Nothing is sent to measure.

*Delay* is the shortest time from a request to its first answer, of requests that went out when nothing else was
in flight here: what waits in line behind others measures their length and not the way, and a window that is made of
such a measure would grow with its own queue.  *Bandwidth* is the best rate at which answers came; the time of a
sample is the longer of that in which its answers came and that in which they were asked for, since what had piled up
while we were busy comes at once, and not at the rate of the way.  Both are of the last `MEMORY` seconds.  Where there
was no such request for that long the delay `is_stale`, and whoever keeps the way busy is to let it run dry once.

Threads: any; `_lock` guards all fields and is held for arithmetic only.  No clock of its own: whoever calls says
what time it is.
"""

from __future__ import annotations

import threading
from collections import deque

from zerofs.store.process import PerProcess
from zerofs.store.url import StoreUrl

MEMORY = 10.0  # seconds that a measurement counts, unless there is no newer one
RUN_DRY = 1.0  # seconds that a way may take to run dry; after that any request measures its delay
LEAST_TIME = 1e-4  # seconds; what takes less says more about our clock than about the way


class Asked:
    """A request on its way, and the state of the link when it was sent."""

    __slots__ = ("answered", "asked_before", "at", "delivered", "delivered_at", "is_alone")

    def __init__(
        self, at: float, delivered: int, delivered_at: float, asked_before: float, *, is_alone: bool
    ) -> None:
        self.at = at
        self.delivered = delivered  # bytes, by then
        self.delivered_at = delivered_at  # when the last of them came
        self.asked_before = asked_before  # and when these had been asked for
        self.is_alone = is_alone  # nothing else was in flight
        self.answered = False


class Link:
    """Delay (seconds) and bandwidth (payload bytes a second) of the way to a store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0  # requests
        self._delivered = 0
        self._delivered_at = 0.0
        self._asked_before = 0.0
        self._measured_at: float | None = None  # the delay, last
        self._delays: deque[tuple[float, float]] = deque()  # (when, seconds), from the shortest on
        self._rates: deque[tuple[float, float]] = deque()  # (when, bytes a second), from the best on

    @property
    def delay(self) -> float:
        """Seconds; 0 as long as nothing was measured."""
        with self._lock:
            return self._delays[0][1] if self._delays else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second; 0 as long as nothing was measured."""
        with self._lock:
            return self._rates[0][1] if self._rates else 0.0

    def dry_until(self, now: float) -> float:
        """Until when nothing is to be asked for while something is in flight, so that the delay can be measured.

        A time in the past where there is no need.
        """
        measured = self._measured_at
        if measured is None or now < measured + MEMORY:
            return 0.0
        return measured + MEMORY + RUN_DRY

    def begin(self, now: float) -> Asked:
        """A request is sent at `now`.  `end` it."""
        with self._lock:
            measured = self._measured_at
            is_alone = not self._in_flight or (measured is not None and now >= measured + MEMORY + RUN_DRY)
            if not self._in_flight:
                self._delivered_at = self._asked_before = now
            self._in_flight += 1
            return Asked(now, self._delivered, self._delivered_at, self._asked_before, is_alone=is_alone)

    def arrived(self, asked: Asked, now: float, payload: int) -> None:
        """Answers to a request came, with `payload` bytes in all."""
        with self._lock:
            if not asked.answered:
                asked.answered = True
                if asked.is_alone:
                    self._measured(max(LEAST_TIME, now - asked.at), now)
            self._delivered += payload
            self._delivered_at = now
            self._asked_before = asked.at
            took = max(LEAST_TIME, now - asked.delivered_at, asked.at - asked.asked_before)
            rate = (self._delivered - asked.delivered) / took
            while self._rates and self._rates[-1][1] <= rate:
                self._rates.pop()
            self._rates.append((now, rate))
            _forget(self._rates, now)

    def end(self, asked: Asked) -> None:
        """Nothing more comes of a request."""
        with self._lock:
            self._in_flight -= 1

    def _measured(self, delay: float, now: float) -> None:
        self._measured_at = now
        while self._delays and self._delays[-1][1] >= delay:
            self._delays.pop()
        self._delays.append((now, delay))
        _forget(self._delays, now)


def _forget(samples: deque[tuple[float, float]], now: float) -> None:
    while len(samples) > 1 and samples[0][0] < now - MEMORY:
        samples.popleft()


_links: PerProcess[dict[StoreUrl, Link]] = PerProcess(dict)


def link_to(url: StoreUrl) -> Link:
    """The link to the store at `url`, the same object for equal URLs."""
    return _links.get().setdefault(url, Link())  # in one step: no other thread comes between
