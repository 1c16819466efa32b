"""Idle connections of one destination, kept for whoever asks next.

A connection belongs to one thread between `take` and `give`; in between it is in no list, so no lock
is held while a socket is used.  The lock guards the lists of idle ones only.

Threads that fetch what nobody waits for (`unhurried`) have connections of their own: they take none that a reader
left, who would have to make a new one next time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from zerofs.store.process import PerProcess

MAX_IDLE = 8  # connections kept per destination, for readers and for the background each
MAX_IDLE_SECONDS = 30.0  # middleboxes forget a silent connection without telling either end


class Connection(Protocol):
    """What is pooled; used by one thread at a time."""

    def is_stale(self) -> bool:
        """Whether the peer closed it, or said something unasked."""
        ...

    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)


_here = threading.local()


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """What this thread fetches meanwhile is awaited by nobody."""
    _here.unhurried = True
    try:
        yield
    finally:
        _here.unhurried = False


def _is_unhurried() -> bool:
    return getattr(_here, "unhurried", False)


class _Idle(Generic[C]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        # with the time since when each is idle
        self.connections: list[tuple[C, float]] = []
        self.unhurried: list[tuple[C, float]] = []

    def line(self) -> list[tuple[C, float]]:
        """Where the calling thread leaves its connections."""
        return self.unhurried if _is_unhurried() else self.connections

    def next(self) -> tuple[C, float] | None:
        """One for the calling thread: its own kind first, and for a reader then any."""
        with self.lock:
            for line in (self.line(),) if _is_unhurried() else (self.connections, self.unhurried):
                if line:
                    return line.pop()
        return None


class ConnectionPool(Generic[C]):
    """Connections made by `connect(deadline)`, last used first."""

    def __init__(self, connect: Callable[[float], C]) -> None:
        self._connect = connect
        self._idle: PerProcess[_Idle[C]] = PerProcess(_Idle)

    def take(self, deadline: float) -> tuple[C, bool]:
        """A connection, and whether it was used before (then it may have died unnoticed)."""
        idle = self._idle.get()
        while (found := idle.next()) is not None:
            connection, since = found
            if time.monotonic() - since < MAX_IDLE_SECONDS and not connection.is_stale():
                return connection, True
            connection.close()
        return self._connect(deadline), False

    def has_idle(self) -> bool:
        """Whether there is one at this moment that need not be made."""
        return bool(self._idle.get().line())

    def give(self, connection: C) -> None:
        """Keep a connection on which every request has been answered."""
        idle = self._idle.get()
        with idle.lock:
            if len(idle.line()) < MAX_IDLE:
                idle.line().append((connection, time.monotonic()))
                return
        connection.close()

    def clear(self) -> None:
        """Close the idle connections."""
        idle = self._idle.get()
        with idle.lock:
            connections = [*idle.connections, *idle.unhurried]
            idle.connections, idle.unhurried = [], []
        for connection, _ in connections:
            connection.close()
