"""Chunks on their way into cache pools: a bounded queue and one thread that empties it.

Readers only ever append, or drop where the queue is full; they never wait for a cache pool.  The thread
starts with the first chunk.  `_Queue.changed` guards the queue's fields; no store is asked under it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import NamedTuple

from zerofs.errors import ZerofsError
from zerofs.store.base import Payload
from zerofs.store.destination import Destination
from zerofs.store.process import PerProcess
from zerofs.store.tally import Tally

MAX_BYTES = 16 * 1024 * 1024  # payloads that wait
BATCH = 32  # chunks written in one go
WRITE_TIMEOUT = 10.0  # seconds a batch may take

_logger = logging.getLogger(__name__)


class _Item(NamedTuple):
    destination: Destination
    id: bytes
    payload: Payload


class _Queue:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.items: deque[_Item] = deque()
        self.bytes = 0  # of the payloads in `items`
        self.busy = False  # the thread is writing a batch
        self.closed = False
        self.thread: threading.Thread | None = None
        self.written = 0  # chunks
        self.dropped = Tally(_logger, "chunks not written to a cache pool")


class WriteBack:
    """Writes chunks in the background and never fails anybody."""

    def __init__(self) -> None:
        self._queue = PerProcess(_Queue)

    def offer(self, destination: Destination, chunk_id: bytes, payload: Payload) -> None:
        """Queue a chunk, or drop it where the queue is full."""
        queue = self._queue.get()
        with queue.changed:
            fits = not queue.closed and queue.bytes + len(payload) <= MAX_BYTES
            if fits:
                self._append(queue, _Item(destination, chunk_id, payload))
        if not fits:
            queue.dropped.add(f"{destination.display}: more comes in than it takes")

    def _append(self, queue: _Queue, item: _Item) -> None:
        queue.items.append(item)
        queue.bytes += len(item.payload)
        if queue.thread is None:
            queue.thread = threading.Thread(
                target=self._run, args=(queue,), name="zerofs-writeback", daemon=True
            )
            queue.thread.start()
        queue.changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until everything queued is written or dropped; False if `timeout` seconds were too few."""
        queue = self._queue.get()
        with queue.changed:
            return queue.changed.wait_for(lambda: not queue.items and not queue.busy, timeout)

    def close(self, timeout: float) -> None:
        """Give what is queued `timeout` seconds, then drop the rest."""
        self.drain(timeout)
        queue = self._queue.get()
        with queue.changed:
            queue.closed = True
            left = len(queue.items)
            queue.items.clear()
            queue.bytes = 0
            queue.changed.notify_all()
        if left:
            queue.dropped.add("the router is closing", left)

    def counts(self) -> tuple[int, int]:
        """Chunks written and chunks dropped so far."""
        queue = self._queue.get()
        with queue.changed:
            return queue.written, queue.dropped.count

    def _run(self, queue: _Queue) -> None:
        while True:
            with queue.changed:
                queue.busy = False
                queue.changed.notify_all()
                queue.changed.wait_for(lambda: queue.items or queue.closed)
                if queue.closed:
                    return
                batch = self._next_batch(queue)
                queue.busy = True
            self._write(queue, batch)

    def _next_batch(self, queue: _Queue) -> list[_Item]:
        """What stands first and is for one destination."""
        batch = [queue.items.popleft()]
        while queue.items and len(batch) < BATCH and queue.items[0].destination is batch[0].destination:
            batch.append(queue.items.popleft())
        queue.bytes -= sum(len(item.payload) for item in batch)
        return batch

    def _write(self, queue: _Queue, batch: list[_Item]) -> None:
        destination = batch[0].destination
        reason = f"{destination.display}: passed over, as it keeps failing"
        if not destination.breaker.is_open or destination.breaker.claim_probe():
            try:
                items = [(item.id, item.payload) for item in batch]
                destination.put_many(items, time.monotonic() + WRITE_TIMEOUT)
            except ZerofsError as fault:
                reason = str(fault)
            else:
                with queue.changed:
                    queue.written += len(batch)
                return
        queue.dropped.add(reason, len(batch))
