"""The fast engine: `zerofs._fast.Engine` behind a mount point.

Role: takes the channel that llfuse mounted before llfuse has answered anything, and serves it by compiled threads
that need no interpreter.  What the engine cannot decide it asks from here: chunks that are not in
the cache, and whether a reader is being killed.

It can be replaced while it serves: `halt` has it take no more requests, and another process that has its `Inheritance`
goes on.

Threads: `WORKERS` that take requests, none of which ever waits for a store; one that ticks: it ends
generations of the chunk table, reads whose deadline is over, and waits of readers that are being killed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zerofs._fast import Engine, IndexMap
from zerofs.errors import ZerofsError
from zerofs.flist.model import Chunk
from zerofs.mount.channel import Channel, interrupt
from zerofs.mount.engine import ReadCounts, Served

if TYPE_CHECKING:
    from zerofs._fast import Touch
    from zerofs.flist.index import Index

log = logging.getLogger(__name__)

WORKERS = max(2, min(8, os.cpu_count() or 2))
_OLDEST_KERNEL = (5, 1)  # the first one that opens directories by itself
_TICK = 1.0  # seconds; a generation lasts that long, and a late read is noticed that late
_SHORT_TICK = 0.01  # seconds, when the cache needs the pages that a generation keeps
_END_TIMEOUT = 1.0  # seconds; the workers end at once unless the mount was busy and is only detached
_INTERRUPT_PAUSE = 0.002  # seconds between two interruptions: a thread may have been about to read
_SIGKILL_BIT = 1 << 8


class Inheritance(NamedTuple):
    """What an engine needs to go on where another one stopped."""

    channel: int
    released: int  # names that linger no more, in a file in memory that both share
    negotiated: int
    mount_id: int | None
    replaced: Sequence[tuple[tuple[int, bytes], int]]


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

    def __init__(
        self,
        served: Served,
        mountpoint: Path,
        options: set[str],
        inherited: Inheritance | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """Mount, or take over what is `inherited`.  `shared`: so that it can be inherited from this one."""
        self._served = served
        self._inherited = inherited
        if inherited is not None:
            self._channel = Channel.inherited(inherited.channel, mountpoint, inherited.mount_id)
            self._released: int | None = inherited.released
        else:
            # llfuse mounts, and is never asked to answer
            self._channel = Channel(None, mountpoint, options, succeeded=shared)
            self._released = os.memfd_create("zerofs-released", os.MFD_CLOEXEC) if shared else None
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
            negotiated=0 if inherited is None else inherited.negotiated,
            released=self._released,
            replaced=() if inherited is None else inherited.replaced,
        )
        self.lingering = self._engine.lingering
        self._change = threading.Lock()  # around what replaces the engine's view
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._numbers: list[int] = []  # of the workers
        self._serving = 0
        self._halted = False

    def start(self) -> None:
        self._numbers = [self._engine.add_worker() for _ in range(WORKERS)]
        if self._inherited is not None:
            self._resume()
        self._start_workers()
        self._run("fuse-tick", self._tick)
        if self._inherited is None:
            self._channel.raise_readahead()

    def _start_workers(self) -> None:
        self._serving = len(self._numbers)
        for number in self._numbers:
            self._run(f"fuse-{number}", partial(self._serve, number))

    def _resume(self) -> None:
        """Go on where another process stopped; ask for what that took and did not answer."""
        self.lingering.take_over()
        if self._engine.resends:
            try:
                self.notifier.send_again()
            except OSError as error:  # unmounted meanwhile, as the workers are about to find out
                log.debug("no request is sent again: %s", error)

    def _run(self, name: str, target: Callable[[], None]) -> None:
        # daemons: a mount that is busy when it is taken down must not keep the process
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- handing over ----------------------------------------------------------------------

    def inheritance(self) -> Inheritance:
        """What a successor needs; for an engine that has started and is `shared`."""
        assert self._released is not None
        channel = self._channel
        return Inheritance(
            channel.descriptor,
            self._released,
            self._engine.negotiated,
            channel.mount_id,
            self.lingering.nodes(),
        )

    @property
    def resends(self) -> bool:
        """Whether the kernel sends again what a server took and did not answer."""
        return self._engine.resends

    def halt(self, patience: float) -> bool:
        """Take no more requests; what was taken is answered when this returns, but for parked reads.

        These are left to the successor where the kernel sends them again; otherwise they are waited for, for
        `patience` seconds at most.  Whether all were answered, or will be sent again.
        """
        self._halted = True
        self._engine.halt()
        workers = [thread for thread in self._threads if thread.name != "fuse-tick"]
        while alive := [thread.native_id for thread in workers if thread.is_alive()]:
            interrupt(thread for thread in alive if thread is not None)
            time.sleep(_INTERRUPT_PAUSE)
        end = time.monotonic() + patience
        while not self.resends and self.reads().waiting and time.monotonic() < end:
            time.sleep(_INTERRUPT_PAUSE)
        return self.resends or not self.reads().waiting

    def go_on(self) -> None:
        """Serve again after `halt`: there was no successor."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._engine.go_on()
        self._halted = False
        self._resume()
        self._start_workers()

    # --------------------------------------------------------------------------------------

    def _serve(self, number: int) -> None:
        try:
            failure = self._engine.serve(number)
            if failure > 0:
                log.error("the FUSE channel failed: %s", os.strerror(failure))
        finally:
            with self._change:
                self._serving -= 1
                last = self._serving == 0 and not self._halted
            if last:
                os.eventfd_write(self.ended, 1)

    def _tick(self) -> None:
        steps = (
            partial(self._changing, self._engine.mend),
            partial(self._changing, self._engine.renew),
            self._served.fetcher.expire,
            self._engine.give_up_killed,
        )
        cache = self._served.cache
        seen = cache.await_shortage(0, 0.0)
        while not self._stopping.is_set():
            last, seen = seen, cache.await_shortage(seen, _TICK)
            if seen != last:
                self._stopping.wait(_SHORT_TICK)  # whoever asks all the time is not heard more often
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

    def reads(self) -> ReadCounts:
        return ReadCounts(*self._engine.reads())

    def take_touches(self) -> list[Touch]:
        return self._engine.take_touches()

    def unmount(self) -> None:
        self._channel.unmount()

    def close(self) -> None:
        self._stopping.set()
        self._served.cache.wake()
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
