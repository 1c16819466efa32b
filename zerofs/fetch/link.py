"""How fast the way to the stores is, measured on what comes over it anyway.

Role: `budget` bounds by it what the background may have in flight.  Delay is the shortest time from sending a
request to its first answer, bandwidth the best rate at which answers came between a request and an answer to it;
both of the last few seconds, so that one slow or idle moment does not count.  Nothing is sent to measure.

No threads, no locks, no clock of its own: whoever calls guards it and says what time it is.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

MEMORY = 10.0  # seconds that a measurement counts, unless there is no newer one
LEAST_TIME = 1e-4  # seconds; what takes less says more about our clock than about the link
_LEAST_RATIO = 1 / 16  # what compresses better, or is no chunk at all, tells nothing about the next ones
_RATIO_WEIGHT = 0.1  # of the newest answers in the share that payloads take of plain bytes


class Mark(NamedTuple):
    """The state of the link when a request was sent."""

    at: float
    delivered: int


class Link:
    """Delay (seconds), bandwidth (payload bytes a second) and how well chunks are compressed."""

    def __init__(self) -> None:
        self._delivered = 0
        self._delays: deque[tuple[float, float]] = deque()  # (when, seconds), from the shortest on
        self._rates: deque[tuple[float, float]] = deque()  # (when, bytes a second), from the best on
        self.ratio = 1.0  # payload bytes to a plain byte

    @property
    def delay(self) -> float:
        """Seconds; 0 as long as nothing was measured."""
        return self._delays[0][1] if self._delays else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second; 0 as long as nothing was measured."""
        return self._rates[0][1] if self._rates else 0.0

    def begin(self, now: float) -> Mark:
        """A request is sent at `now`."""
        return Mark(now, self._delivered)

    def answered(self, mark: Mark, now: float) -> None:
        """The first answer to a request came."""
        delay = max(LEAST_TIME, now - mark.at)
        while self._delays and self._delays[-1][1] >= delay:
            self._delays.pop()
        self._delays.append((now, delay))
        _forget(self._delays, now)

    def arrived(self, mark: Mark, now: float, payload: int, plain: int) -> None:
        """`payload` bytes, `plain` when decoded, came as part of the answer to a request."""
        self._delivered += payload
        rate = (self._delivered - mark.delivered) / max(LEAST_TIME, now - mark.at)
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((now, rate))
        _forget(self._rates, now)
        if plain:
            share = min(1.0, max(_LEAST_RATIO, payload / plain))
            self.ratio += (share - self.ratio) * _RATIO_WEIGHT


def _forget(samples: deque[tuple[float, float]], now: float) -> None:
    while len(samples) > 1 and samples[0][0] < now - MEMORY:
        samples.popleft()
