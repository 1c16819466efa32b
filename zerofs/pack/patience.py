"""Telling whoever waits for a command which store it waits for, before its time is over.

Role: around each batch of `contents.fetch`.  A timer tells; several threads that meet the same trouble are told once
in `SILENCE` seconds.  Any thread; one lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from zerofs.store.router import Router

PATIENCE = 2.0  # seconds without an end of a batch
SILENCE = 10.0  # seconds between two lines

log = logging.getLogger(__name__)
_lock = threading.Lock()
_quiet_until = 0.0


@contextmanager
def told_when_late(router: Router, timeout: float) -> Iterator[None]:
    """Say which stores of `router` fail, where the block takes long; it ends within `timeout` seconds."""
    timer = threading.Timer(PATIENCE, _tell, (router, timeout))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(router: Router, timeout: float) -> None:
    global _quiet_until
    failing = [str(store["store"]) for store in router.stats() if store["state"] != "good"]
    if not failing:
        return
    with _lock:
        if time.monotonic() < _quiet_until:
            return
        _quiet_until = time.monotonic() + SILENCE
    log.warning("%s: cannot be read; trying again, for %.0f s at most", ", ".join(failing), timeout)
