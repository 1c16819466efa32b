"""Idle connections of one destination, kept for whoever asks next.

A connection belongs to one thread between `take` and `give`; in between it is in no list, so no lock
is held while a socket is used.  The lock guards the list of idle ones only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from zerofs.store.process import PerProcess

MAX_IDLE = 8  # connections kept per destination
MAX_IDLE_SECONDS = 30.0  # middleboxes forget a silent connection without telling either end


class Connection(Protocol):
    def is_stale(self) -> bool:
        """Whether the peer closed it, or said something unasked."""
        ...

    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)


class _Idle(Generic[C]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connections: list[tuple[C, float]] = []  # with the time since when it is idle


class ConnectionPool(Generic[C]):
    """Connections made by `connect(deadline)`, last used first."""

    def __init__(self, connect: Callable[[float], C]) -> None:
        self._connect = connect
        self._idle: PerProcess[_Idle[C]] = PerProcess(_Idle)

    def take(self, deadline: float) -> tuple[C, bool]:
        """A connection, and whether it was used before (then it may have died unnoticed)."""
        idle = self._idle.get()
        while True:
            with idle.lock:
                if not idle.connections:
                    break
                connection, since = idle.connections.pop()
            if time.monotonic() - since < MAX_IDLE_SECONDS and not connection.is_stale():
                return connection, True
            connection.close()
        return self._connect(deadline), False

    def has_idle(self) -> bool:
        """Whether there is one at this moment that need not be made."""
        return bool(self._idle.get().connections)

    def give(self, connection: C) -> None:
        """Keep a connection on which every request has been answered."""
        idle = self._idle.get()
        with idle.lock:
            if len(idle.connections) < MAX_IDLE:
                idle.connections.append((connection, time.monotonic()))
                return
        connection.close()

    def clear(self) -> None:
        """Close the idle connections."""
        idle = self._idle.get()
        with idle.lock:
            connections, idle.connections = idle.connections, []
        for connection, _ in connections:
            connection.close()
