"""A circuit breaker: a destination that keeps failing is passed over for a while, then probed.

One per destination and router.  Thread-safe: `_lock` guards all fields and is held for arithmetic only.
"""

from __future__ import annotations

import threading
import time

THRESHOLD = 3  # consecutive failures that open the breaker
FIRST_PAUSE = 1.0  # seconds until the first probe; doubles up to the longest one
LONGEST_PAUSE = 30.0
PATIENCE = 30.0  # seconds of failing after which nobody waits for the destination to come back
TRIAL = 1.0  # seconds that a destination gets from then on, until it answers


class Breaker:
    """Counts failures that follow each other.  Any answer, a missing chunk too, is a success."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._since = 0.0  # monotonic time of the first of them
        self._latest = 0.0  # and of the last
        self._pause = FIRST_PAUSE
        self._probe_at = 0.0
        self._answered = 0.0  # monotonic time of the last success; written without the lock
        self._given_up = False  # a reader has waited to its end and no answer came

    @property
    def is_open(self) -> bool:
        """Whether to prefer any other destination."""
        return self._failures >= THRESHOLD

    @property
    def is_suspect(self) -> bool:
        """Whether the latest attempt failed."""
        return self._failures > 0

    @property
    def is_given_up(self) -> bool:
        """Whether it has failed for so long that one short attempt is enough to say so again."""
        with self._lock:
            long = self._failures >= THRESHOLD and self._latest - self._since >= PATIENCE
            return self._given_up or long

    def claim_probe(self) -> bool:
        """Whether the caller, and nobody else for now, is to try whether the destination is back."""
        with self._lock:
            now = time.monotonic()
            if not self._failures or now < self._probe_at:
                return False
            self._probe_at = now + self._pause
            return True

    def succeeded(self) -> None:
        self._answered = time.monotonic()
        if not self._failures:  # the usual case, worth no lock: a stale reading only delays the reset
            return
        with self._lock:
            self._failures = 0
            self._given_up = False
            self._pause = FIRST_PAUSE

    def give_up(self, began: float) -> None:
        """A reader that began to wait then (monotonic time) ends now without its bytes.

        Unless the destination answered others meanwhile, the next ones need not wait as long.
        """
        with self._lock:
            fair = time.monotonic() - began >= TRIAL
            self._given_up |= fair and self._failures > 0 and self._answered < began

    def failed(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._failures and now - self._latest > PATIENCE:
                self._failures = 0  # an old outage says nothing about this one
            if not self._failures:
                self._since = now
                self._pause = FIRST_PAUSE
            self._failures += 1
            self._latest = now
            self._probe_at = now + self._pause
            if self._failures >= THRESHOLD:
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
