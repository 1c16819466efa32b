"""When a mount whose servers die is given up, and how long to wait before another one is started.

Role: counts for `supervisor`.  A server that fails by itself five times in a row has a reason that stays.  One that
somebody kills says nothing about the mount: a host that is out of memory may be so for a while, so these are replaced
for half a minute at least.  Readers wait meanwhile.
"""

from __future__ import annotations

import time

MOST = 5  # that fail by themselves, none of them after half a second of service
KILLED_SECONDS = 30.0  # from the first of a row, for which servers that are killed are replaced however often
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds before a server is started anew; twice as long each time


class Deaths:
    """Those in a row."""

    def __init__(self) -> None:
        self._began = 0.0  # time.monotonic() of the first one
        self.begin_anew()

    def begin_anew(self) -> None:
        """A server has served well: those before it were another row."""
        self.number = 0
        self._failed = 0  # by themselves

    def add(self, *, quick: bool, killed: bool) -> None:
        """One has died: before it had served for any time worth the name (`quick`), and by somebody else (`killed`)."""
        if not quick:
            self.begin_anew()
        if self.number == 0:
            self._began = time.monotonic()
        self.number += 1
        self._failed += not killed

    @property
    def are_hopeless(self) -> bool:
        """Whether no other server is to be started."""
        is_late = time.monotonic() >= self._began + KILLED_SECONDS
        return self._failed >= MOST or (self.number >= MOST and is_late)

    @property
    def pause(self) -> float:
        """Seconds until another server is to be started."""
        return 0.0 if self.number < 2 else min(_FIRST_PAUSE * 2 ** (self.number - 2), _LONGEST_PAUSE)
