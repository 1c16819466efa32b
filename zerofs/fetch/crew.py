"""The threads that fetch what readers wait for.

Place: `fetcher` wakes them for flights that it has queued; each takes a batch, brings it to its end by way of
`delivery`, and takes the next one.  They are started when they are first needed, a few at the most; what nobody waits
for is fetched by those of `background`.

`lock` is the fetcher's; it guards the queue and everything here, and is not held while a batch is brought.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from zerofs.fetch.flight import Flight, FlightQueue


class Crew:
    """At most `most` threads, which `bring` what is queued."""

    def __init__(
        self, lock: threading.Lock, queue: FlightQueue, bring: Callable[[list[Flight]], object], most: int
    ) -> None:
        self._lock = lock
        self._work = threading.Condition(lock)
        self._queue = queue
        self._bring = bring
        self._most = most
        self._threads: list[threading.Thread] = []
        self.idle = 0  # threads that sleep
        self._called = 0  # threads that were woken or started and have not looked for work yet
        self._closing = False

    def wake(self) -> None:
        """Have somebody look at what is queued.  Under the lock."""
        if self.idle:
            self.idle -= 1
            self._called += 1
            self._work.notify()
        elif len(self._threads) < self._most and len(self._queue) > self._called:
            # A daemon: a store that does not answer must not keep the process from ending.
            thread = threading.Thread(target=self._run, name=f"fetch-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
            self._called += 1

    def close(self) -> list[threading.Thread]:
        """Have all of them end, and return them.  Under the lock."""
        self._closing = True
        self._work.notify_all()
        return list(self._threads)

    def _run(self) -> None:
        with self._lock:
            self._called -= 1
            batch = self._next_batch()
        while batch:
            self._bring(batch)
            with self._lock:
                batch = self._next_batch()

    def _next_batch(self) -> list[Flight]:
        """What this thread is to fetch; empty when it is to end.  Under the lock."""
        while not self._closing:
            free = 1 + self.idle + self._called + self._most - len(self._threads)
            if batch := self._queue.take(free):
                return batch
            self.idle += 1
            self._work.wait()
            self._called -= 1
        return []
