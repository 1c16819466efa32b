"""Host names to addresses, with a deadline that the C library's resolver does not have.

A name is resolved in a thread of its own, which may outlive the caller's patience; there is at most one such
thread per name, and later callers wait for the same one.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from zerofs.errors import StoreTimeoutError, StoreUnreachableError, reason_of
from zerofs.store.process import PerProcess

Address = tuple[int, Any]  # address family, what connect() takes


class _Lookup:
    """One resolution under way; `done` is set when one of the other two is."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.addresses: list[Address] = []
        self.fault: OSError | UnicodeError | None = None


class _Lookups:
    """`lock` guards `running`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: dict[tuple[str, int], _Lookup] = {}


_lookups = PerProcess(_Lookups)


def resolve(host: str, port: int, deadline: float) -> list[Address]:
    """The addresses of `host`, in the resolver's order.  Raises StoreUnreachableError."""
    try:
        return _ask(host, port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # a name, then
    lookups = _lookups.get()
    with lookups.lock:
        lookup = lookups.running.get((host, port))
        if lookup is None:
            lookup = lookups.running[host, port] = _Lookup()
            arguments = (lookups, lookup, host, port)
            threading.Thread(target=_run, args=arguments, name="zerofs-resolve", daemon=True).start()
    if not lookup.done.wait(max(0.0, deadline - time.monotonic())):
        raise StoreTimeoutError(f"the name {host} was not resolved in time")
    if lookup.fault is not None:
        reason = reason_of(lookup.fault)
        raise StoreUnreachableError(f"the name {host} does not resolve: {reason}")
    return lookup.addresses


def _run(lookups: _Lookups, lookup: _Lookup, host: str, port: int) -> None:
    try:
        lookup.addresses = _ask(host, port, 0)
    except (OSError, UnicodeError) as fault:
        lookup.fault = fault
    finally:
        with lookups.lock:
            lookups.running.pop((host, port), None)
        lookup.done.set()


def _ask(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))
