"""The fast engine: `zerofs._fast.Engine` behind a mount point.

Role: takes the channel that llfuse mounted before llfuse has answered anything, and serves it by compiled threads
that need no interpreter.  What the engine cannot decide it asks from here: chunks that are not in
the cache, and whether a reader is being killed.

Threads: `WORKERS` that take requests, none of which ever waits for a store; one that ticks: it ends
generations of the chunk table, reads whose deadline is over, and waits of readers that are being killed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs._fast import Engine, IndexMap
from zerofs.errors import ZerofsError
from zerofs.flist.model import Chunk
from zerofs.mount.channel import Channel
from zerofs.mount.engine import ReadCounts, Served

if TYPE_CHECKING:
    from zerofs._fast import Touch
    from zerofs.flist.index import Index

log = logging.getLogger(__name__)

WORKERS = max(2, min(8, os.cpu_count() or 2))
_OLDEST_KERNEL = (5, 1)  # the first one that opens directories by itself
_TICK = 1.0  # seconds; a generation lasts that long, and a late read is noticed that late
_END_TIMEOUT = 1.0  # seconds; the workers end at once unless the mount was busy and is only detached
_SIGKILL_BIT = 1 << 8


def is_possible() -> bool:
    """Whether this host's kernel has what the engine builds on."""
    release = os.uname().release.split(".")
    try:
        return (int(release[0]), int(release[1].partition("-")[0])) >= _OLDEST_KERNEL
    except (IndexError, ValueError):
        return False


class FastEngine:
    """One FUSE mount; see `zerofs.mount.engine`."""

    name = "fast"

    def __init__(self, served: Served, mountpoint: Path, options: set[str]) -> None:
        self._served = served
        self._channel = Channel(None, mountpoint, options)  # llfuse mounts, and is never asked to answer
        self.notifier = self._channel.notifier
        self.device = self._channel.device
        self.ended = os.eventfd(0, os.EFD_CLOEXEC)
        self._engine = Engine(
            self._channel.descriptor,
            served.tree.map,
            cache=served.cache,
            request=self._request,
            report=served.failures.report,
            kill_pending=_kill_pending,
            total_size=served.tree.total_size,
            observer=served.observer,
        )
        self._change = threading.Lock()  # around what replaces the engine's view
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._serving = 0

    def start(self) -> None:
        numbers = [self._engine.add_worker() for _ in range(WORKERS)]
        self._serving = len(numbers)
        for number in numbers:
            self._run(f"fuse-{number}", partial(self._serve, number))
        self._run("fuse-tick", self._tick)
        self._channel.raise_readahead()

    def _run(self, name: str, target: Callable[[], None]) -> None:
        # daemons: a mount that is busy when it is taken down must not keep the process
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, number: int) -> None:
        try:
            failure = self._engine.serve(number)
            if failure:
                log.error("the FUSE channel failed: %s", os.strerror(failure))
        finally:
            with self._change:
                self._serving -= 1
                last = self._serving == 0
            if last:
                os.eventfd_write(self.ended, 1)

    def _tick(self) -> None:
        steps = (
            partial(self._changing, self._engine.mend),
            partial(self._changing, self._engine.renew),
            self._served.fetcher.expire,
            self._engine.give_up_killed,
        )
        while not self._stopping.wait(_TICK):
            for step in steps:
                try:
                    step()
                except Exception:  # the others matter all the same
                    log.exception("tending the FUSE engine")

    def _changing(self, step: Callable[[], object]) -> None:
        with self._change:
            step()

    def _request(self, index: IndexMap, number: int, done: Callable[[int, bytes | None], None]) -> None:
        def arrived(plain: bytes | None, error: ZerofsError | None) -> None:
            if error is not None:
                self._served.failures.report(error)
            done(number, plain)

        self._served.fetcher.submit(Chunk(*index.chunk(number)), arrived)

    def swap(self, index: Index, replaced: Iterable[tuple[tuple[int, bytes], int]]) -> None:
        with self._change:
            self._engine.swap(index.map, index.total_size, replaced)

    def lingering_names(self) -> list[tuple[int, bytes]]:
        return self._engine.lingering_names()

    def reads(self) -> ReadCounts:
        return ReadCounts(*self._engine.reads())

    def take_touches(self) -> list[Touch]:
        return self._engine.take_touches()

    def unmount(self) -> None:
        self._channel.unmount()

    def close(self) -> None:
        self._stopping.set()
        self._engine.fail_parked()
        deadline = time.monotonic() + _END_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._is_served():
            self._channel.cut(ended=lambda: not self._is_served())
        with self._change:
            self._engine.renew()
        self._channel.close()

    def _is_served(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)


def _kill_pending(process: int) -> bool:
    """Whether SIGKILL waits for the process (or thread) with this id."""
    try:
        lines = Path(f"/proc/{process}/status").read_bytes().splitlines()
    except OSError:
        return False
    pending = [int(line.split()[1], 16) for line in lines if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return any(bits & _SIGKILL_BIT for bits in pending)
