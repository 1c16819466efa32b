"""Counting trouble that is got over: a line in the log now and then, not one for each case."""

from __future__ import annotations

import logging
import threading
import time

PAUSE = 60.0  # seconds between two lines


class Tally:
    """Counts one kind of trouble.  Thread-safe; the lock is not held while logging."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._lock = threading.Lock()
        self._count = 0
        self._logged_at = float("-inf")

    @property
    def count(self) -> int:
        return self._count

    def add(self, reason: str, count: int = 1) -> None:
        """Count `count` more cases, and say why if nothing was said for a while."""
        with self._lock:
            self._count += count
            total = self._count
            now = time.monotonic()
            if now - self._logged_at < PAUSE:
                return
            self._logged_at = now
        self._logger.warning("%s: %d so far, the latest: %s", self._what, total, reason)
