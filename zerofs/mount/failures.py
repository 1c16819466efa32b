"""Says in the log why reads fail, without letting a dead store fill the disk.

A failed read is EIO to its reader, who learns nothing more; what happened stands here.  One line a second is
the most; what was not written is counted in the next line.  Called by the engine's threads; one lock.
"""

from __future__ import annotations

import logging
import threading
import time

from zerofs.errors import ClosingError, ZerofsError, describe

log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds between lines


class FailureLog:
    """The failed reads of one mount."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0  # time.monotonic() from which a line may be written again
        self._unsaid = 0

    def report(self, error: ZerofsError) -> None:
        """A read ends in EIO because of `error`."""
        if isinstance(error, ClosingError):
            return  # that the mount ends stands in the log already
        now = time.monotonic()
        with self._lock:
            if now < self._next:
                self._unsaid += 1
                return
            self._next = now + _PAUSE
            unsaid, self._unsaid = self._unsaid, 0
        more = f"; {unsaid} more reads failed since the last such line" if unsaid else ""
        log.error("a read failed: %s%s", describe(error), more)
