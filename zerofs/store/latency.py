"""How long a store takes to answer: which of several to ask first, and when one is late.

Two measures of the same waits, from a request to its first answer: an average in which the last ones count
most, and the largest ones of the last few hundred.  Thread-safe: `_lock` is held for arithmetic only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

WEIGHT = 0.2  # of the latest wait in the average
HALF_LIFE = 10.0  # seconds without a request in which an average halves: what was slow is tried again
FEW = 3  # waits that say nothing yet
WINDOW = 256  # waits of which the quantile is taken
ENOUGH = 20  # waits of which a quantile can be taken
QUANTILE = 0.95
UNKNOWN = (
    2.0  # seconds after which whoever was never measured is late: a share of the deadline may be far more
)
SLACK = 0.002  # seconds; a difference below is noise
FACTOR = 1.5  # a larger ratio is a difference

T = TypeVar("T")


class Latency:
    """The waits for one store, in seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._average = 0.0
        self._count = 0
        self._asked_at = 0.0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._late: float | None = None  # the quantile of what was in the window
        self._fresh = 0  # waits since it was taken

    def asked(self) -> None:
        """A request begins: until it is answered, others go by what is known."""
        self._asked_at = time.monotonic()

    def answered(self, seconds: float) -> None:
        with self._lock:
            self._add(seconds)
            self._window.append(seconds)
            self._fresh += 1

    def failed(self, seconds: float) -> None:
        """No answer came: that took its time too, but says nothing of when an answer is late."""
        with self._lock:
            self._add(max(seconds, self._average))

    def useless(self) -> None:
        """The answer was no help, so that another store has to be asked as well: as if it took twice as long."""
        with self._lock:
            self._add(2 * self._average)

    @property
    def expected(self) -> float:
        """Seconds to the next answer; 0 where too little is known, so that it is found out."""
        if self._count < FEW:
            return 0.0
        idle = time.monotonic() - self._asked_at
        return self._average if idle <= 0 else self._average * 0.5 ** (idle / HALF_LIFE)

    @property
    def late(self) -> float:
        """Seconds after which an answer is later than nearly all others were, or than any that is worth waiting for."""
        with self._lock:
            if len(self._window) < ENOUGH:
                return UNKNOWN
            if self._late is None or self._fresh >= ENOUGH:
                waits = sorted(self._window)
                self._late = waits[min(len(waits) - 1, int(len(waits) * QUANTILE))]
                self._fresh = 0
            return self._late

    def _add(self, seconds: float) -> None:
        self._count += 1
        self._asked_at = time.monotonic()
        # The first few count alike: one that was slow for once is not remembered as a slow store.
        self._average += (seconds - self._average) * max(WEIGHT, 1 / self._count)


def fastest_first(stores: Iterable[T], latency: Callable[[T], Latency]) -> list[T]:
    """In order of what is expected of them; those that are about as fast as the fastest stay in theirs."""
    expected = [(latency(each).expected, each) for each in stores]
    best = min((seconds for seconds, _ in expected), default=0.0) * FACTOR + SLACK
    return [each for _, each in sorted(expected, key=lambda pair: pair[0] if pair[0] > best else 0.0)]
