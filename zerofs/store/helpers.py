"""A few threads that wait for stores in somebody else's place, and mailboxes in which they leave what came.

Thread-safe: `lock` guards the counts.  The threads are daemons: a store that does not answer must not keep the
process from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from zerofs.store.process import PerProcess

MOST = 16  # threads
LINGER = 10.0  # seconds for which an idle one waits for more

T = TypeVar("T")
Task = Callable[[], object]


class Mailbox(Generic[T]):
    """What helpers leave for one who waits."""

    def __init__(self) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()

    def put(self, item: T) -> None:
        self._items.put(item)

    def take(self, timeout: float) -> T | None:
        """The next item; None if there is none within `timeout` seconds."""
        try:
            return self._items.get(timeout=max(0.0, timeout))
        except Empty:
            return None


class _Crew:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[Task] = SimpleQueue()
        self.threads = 0
        self.idle = 0  # threads for which no task is queued


class Helpers:
    """Runs tasks, which must not raise, at once or not at all."""

    def __init__(self) -> None:
        self._crew = PerProcess(_Crew)

    def run(self, task: Task) -> bool:
        """Have a thread run `task`; False where all of them are busy."""
        crew = self._crew.get()
        with crew.lock:
            if crew.idle:
                crew.idle -= 1
                crew.tasks.put(task)
                return True
            if crew.threads >= MOST:
                return False
            crew.threads += 1
        threading.Thread(target=self._work, args=(crew, task), name="zerofs-helper", daemon=True).start()
        return True

    def mailbox(self) -> Mailbox[T]:
        return Mailbox()

    def _work(self, crew: _Crew, task: Task) -> None:
        while True:
            task()
            with crew.lock:
                crew.idle += 1
            try:
                task = crew.tasks.get(timeout=LINGER)
            except Empty:
                with crew.lock:
                    if crew.idle:
                        crew.idle -= 1
                        crew.threads -= 1
                        return
                task = crew.tasks.get()  # queued for us at the last moment
