"""One direction of an emulated link, as arithmetic: when does what goes in now come out.

A line takes bytes one after the other at its rate, whichever connection they belong to, and each comes out one
delay after it was taken.  Moments are seconds on a clock of the caller's, so nothing here waits: a caller that is
late with one piece does not make the next one late, as long as the line has not run empty.

The queue in front of the line is short, as that of a good router: `QUEUE` seconds at its rate.  Who wants to send more
waits, and connections take turns, so a small answer does not stand behind all that another connection has asked for.
"""

from __future__ import annotations

import random
from typing import NamedTuple

QUEUE = 0.005  # seconds at the line's rate; also how late the caller may come without a gap
_PIECE = 0.0005  # seconds at the line's rate that travel together
_LEAST, _MOST = 1448, 64 * 1024  # bytes: what a packet holds, what is worth one call


class Conditions(NamedTuple):
    """A link between two hosts, the same in both directions."""

    rtt: float  # seconds, for a byte there and back
    rate: float  # bytes a second, shared by all connections
    jitter: float = 0.0  # seconds; each delay is so much longer at most, evenly spread, and order is kept

    def seconds(self, size: int, round_trips: int = 0) -> float:
        """What `size` bytes take at the line's rate, and so many round trips."""
        return size / self.rate + round_trips * self.rtt


class Line:
    """One direction of a link.  Not thread-safe."""

    def __init__(self, conditions: Conditions, seed: int = 0) -> None:
        self._rate = conditions.rate
        self._delay = conditions.rtt / 2
        self._jitter = conditions.jitter
        self._random = random.Random(seed)
        self._taken = 0.0  # when the last byte that went in has been taken
        self._last = 0.0  # when it comes out
        self.piece = max(_LEAST, min(_MOST, int(self._rate * _PIECE)))  # bytes to put in at once, at most

    def opens(self) -> float:
        """The moment from which on the queue has room."""
        return self._taken - QUEUE

    def put(self, size: int, now: float) -> float:
        """Queue `size` bytes at the moment `now`; returns the moment when the last of them has come out."""
        self._taken = max(self._taken, now) + size / self._rate
        delay = self._delay + (self._random.uniform(0, self._jitter) if self._jitter else 0.0)
        self._last = max(self._last, self._taken + delay)
        return self._last
