"""What was used lately: the file in which all users of a cache say so, and what live mounts live on.

Place: beside `environment`, one in a process for a cache.  Engines mark what they read through a `WorkingSet`
(`zerofs._fast`), without a lock or a system call; `clock` asks here before it lets something go.

The file, ``recency``, has a fixed size and is shared by all processes; it may be wrong, gone or cut at any time,
which costs nothing but a chunk that would have been kept.  Where it cannot be had, this process knows its own use only.

The same file has a number by which a writer that lacks pages asks engines to end their snapshots.

Threads: all but `close` from any; one daemon of its own, from the first working set on, that holds them: it says every
`HOLD_EVERY` seconds that they are in use, because the kernel's page cache answers for what is read all the time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from pathlib import Path

from zerofs._fast import RECENCY_SIZE, Recency, WorkingSet

logger = logging.getLogger(__name__)

FILE = "recency"
EPOCH = 60.0  # seconds
HOLD_EVERY = 20.0  # seconds
_EPOCHS = 255  # they fit into a byte, and 0 is none
_FRESH = 2  # epochs for which a hold counts: a mount that was killed holds nothing after that
HELD_SHARE = 0.5  # of the cache's bound that one mount holds at the most


class Usage:
    """See the module.  `path` is the cache's directory, `size_limit` (bytes) its bound."""

    def __init__(self, path: Path, size_limit: int) -> None:
        self._recency = _open(path / FILE)
        self._budget = int(size_limit * HELD_SHARE)
        self._sets: weakref.WeakSet[WorkingSet] = weakref.WeakSet()
        self._changed = threading.Condition()
        self._closed = False
        self._keeper: threading.Thread | None = None

    def working_set(self) -> WorkingSet:
        """For one mount: what it reads is marked, and held as long as the object lives."""
        working = WorkingSet(self._recency, self._budget)
        with self._changed:
            self._sets.add(working)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="cache-hold", daemon=True)
                self._keeper.start()
        return working

    def use(self, name: bytes) -> None:
        """Mark an entry as used."""
        self._recency.use(name)

    def was_used(self, name: bytes) -> bool:
        """Whether it was used since `pass_by`."""
        return self._recency.was_used(name)

    def pass_by(self, name: bytes) -> None:
        """It has had its second chance."""
        self._recency.pass_by(name)

    def is_held(self, name: bytes) -> bool:
        """Whether it belongs to what a live mount lives on."""
        held = self._recency.held_in(name)
        return held != 0 and (_epoch() - held) % _EPOCHS <= _FRESH

    def ask_readers(self) -> None:
        """Tell all who have snapshots, in any process, that their pages are needed."""
        self._recency.ask()

    def await_asked(self, seen: int, seconds: float) -> int:
        """Wait, for `seconds` at most, until readers are asked, or were since `seen` was returned; what to see next."""
        try:
            return self._recency.await_asked(seen, seconds)
        except OSError:
            time.sleep(seconds)
            return seen

    def hold(self) -> None:
        """Say now that all working sets are in use."""
        with self._changed:
            sets = list(self._sets)
        for working in sets:
            working.hold(_epoch())

    def close(self) -> None:
        """Hold nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _keep(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, HOLD_EVERY):
                    return
            self.hold()


def _epoch() -> int:
    """This minute's number, from 1 on; the wall clock is the one that all containers of a host share."""
    return int(time.time() // EPOCH) % _EPOCHS + 1


def _open(path: Path) -> Recency:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size != RECENCY_SIZE:
                os.posix_fallocate(
                    descriptor, 0, RECENCY_SIZE
                )  # mapped sparse, it would fail when the disk is full
            return Recency(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.warning("what was used lately is not shared with other mounts: %s: %s", path, error.strerror)
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()  # the disk had no room for it
        return Recency()
