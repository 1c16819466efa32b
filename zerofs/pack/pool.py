"""Threads that work off a bounded queue of calls; the first error ends the work.

Role: `pack`, `unpack`, `store copy` and `store check` keep several chunks under way with it.  Calls run in daemon
threads, in any order; `submit` blocks while the queue is full, which is what bounds the memory of a
run.  An error of a call is raised in the thread that submits or finishes, and what is still queued is
dropped.  One lock, inside the queue.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

GRACE = 5.0  # seconds that an abandoned run waits for the calls that are under way
QUEUED = 2  # calls that wait for a thread

Call = Callable[[], None]


def default_workers() -> int:
    """Threads of a run by default: the cores, and some more that wait for the store."""
    return min(16, 2 * len(os.sched_getaffinity(0)) + 2)


class Pool:
    """A context: leaving it waits for all calls and raises the first error of one.

    When it is left by an exception, nothing that is queued runs any more, and what runs has `GRACE`
    seconds to end.
    """

    def __init__(self, workers: int) -> None:
        self._queue: queue.Queue[Call | None] = queue.Queue(QUEUED)
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"zerofs-pool-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Call) -> None:
        """Queue `call`; raises what an earlier one raised."""
        self._check()
        self._queue.put(call)

    def wait(self) -> None:
        """Return when every call has ended; raises what one of them raised."""
        self._queue.join()
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._stop()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _stop(self) -> None:
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
                self._queue.task_done()
        self._queue.put(None)
        deadline = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                if not self._stopped.is_set():
                    call()
            except BaseException as error:  # noqa: BLE001 - raised where the work was submitted
                self._error = self._error or error
                self._stopped.set()
            finally:
                self._queue.task_done()
        self._queue.put(None)  # the next thread ends by the same one: the queue is too short for one each
