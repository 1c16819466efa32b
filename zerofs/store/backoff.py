"""Waiting between attempts: twice as long each time, with jitter, and never past a deadline."""

from __future__ import annotations

import threading
import time

FIRST = 0.05  # seconds
LONGEST = 2.0


class Backoff:
    """The pauses of one operation."""

    def __init__(self) -> None:
        self._pause = FIRST

    def wait(self, deadline: float, interrupted: threading.Event) -> bool:
        """Wait; False where there is no time for another attempt, or `interrupted` is set."""
        import random  # nothing that a store which answers needs

        pause = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(self._pause * 2, LONGEST)
        if time.monotonic() + pause >= deadline:
            return False
        return not interrupted.wait(pause)
