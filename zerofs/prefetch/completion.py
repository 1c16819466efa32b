"""Background completion: once the start is over, the rest of the image comes into the cache, little by little.

Place: beside the prefetcher, above the fetcher, whose background it uses: a batch is asked for, looked for in the
cache, and then the next one; what cannot be had is left for a later round.  The smallest files come first, for they
complete most for their bytes.  It waits while readers demand chunks, keeps to its rate, leaves a tenth of the cache
free for others, and ends when all is there.

Threads: one of its own, between `start` and `close`; `replace` may be called by another.  `_changed` guards what
these two share and is held for no longer than it takes to copy it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from zerofs.prefetch.survey import files_below, is_cacheable, lacking_sizes, survey

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.errors import ZerofsError
    from zerofs.fetch.fetcher import Fetcher
    from zerofs.flist.index import Index

log = logging.getLogger(__name__)

DEFAULT_RATE = 10 << 20  # bytes a second
QUIET = 5.0  # seconds without a demanded chunk after which the start is over
PAUSE = 1.0  # seconds that it waits after a demanded chunk later on
BATCH_BYTES = 1 << 20  # plain bytes that are asked for at a time
BATCH_CHUNKS = 64
LOOK = 0.02  # seconds between looks whether a batch has arrived
ARRIVAL = 60.0  # seconds after which what has not arrived, without a reason, is left for the next round
RETRY = 60.0  # seconds before the next round, where chunks could not be had
ROOM = 0.1  # of the cache's bound is left free


class Completion:
    """Fetches what `cache` lacks of `tree`, at most `rate` plain bytes a second.

    `clock`: seconds, as time.monotonic.
    """

    def __init__(
        self,
        tree: Index,
        cache: ChunkCache,
        fetcher: Fetcher,
        rate: float = DEFAULT_RATE,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = tree
        self._cache = cache
        self._fetcher = fetcher
        self._rate = rate
        self._clock = clock
        self._changed = threading.Lock()
        self._plan: deque[int] | None = None  # chunks still to be asked for
        self._asked: list[int] = []
        self._asked_at = 0.0
        self._refused: list[ZerofsError] = []  # an error for each of these that cannot be had
        self._demanded = fetcher.stats().demanded
        self._idle_from = clock() + QUIET  # when to go on
        self._next = 0.0  # when the rate allows the next batch
        self._failed = 0  # chunks of this round that did not arrive
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        # A daemon: the mount must be able to end whatever it is doing
        self._thread = threading.Thread(target=self._run, name="completion", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask for nothing more."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def replace(self, tree: Index) -> None:
        """Complete another tree from now on; one that had ended goes on, too."""
        with self._changed:
            self._tree, self._plan, self._asked = tree, None, []
        if self._thread is not None and not self._thread.is_alive() and not self._closing.is_set():
            self.start()

    def step(self) -> float | None:
        """Do what there is to do now; the seconds until there may be more, None once there is nothing left."""
        now = self._clock()
        demanded = self._fetcher.stats().demanded
        if demanded != self._demanded:
            self._demanded = demanded
            self._idle_from = max(self._idle_from, now + (QUIET if self._plan is None else PAUSE))
        if now < self._idle_from:
            return min(self._idle_from - now, PAUSE)
        with self._changed:
            tree, plan = self._tree, self._plan
        if plan is None:
            plan = self._make_plan(tree)
        if self._asked and (waiting := self._lacking(tree, self._asked)):
            if len(waiting) > len(self._refused) and now < self._asked_at + ARRIVAL:
                return LOOK
            self._failed += len(waiting)
        self._asked = []
        if now < self._next:
            return self._next - now
        if not plan:
            return self._end_round()
        if self._is_full():
            log.info("completion: the cache has no room for the rest of the image")
            return None
        self._ask(tree, plan, now)
        return LOOK

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                pause = self.step()
            except Exception:
                log.exception("completing the image in the background")
                return
            if pause is None:
                return
            self._closing.wait(pause)

    def _make_plan(self, tree: Index) -> deque[int]:
        found = survey(tree, self._cache, files_below(tree))
        plan = deque(number for number in found.lacking if is_cacheable(tree, number))
        with self._changed:
            if self._tree is tree:
                self._plan = plan
        self._failed = 0
        return plan

    def _end_round(self) -> float | None:
        if not self._failed:
            log.info("completion: all of the image is in the cache")
            return None
        log.info("completion: %d chunks could not be had, trying again", self._failed)
        with self._changed:
            self._plan = None
        self._idle_from = self._clock() + RETRY
        return PAUSE

    def _ask(self, tree: Index, plan: deque[int], now: float) -> None:
        """Ask for the next batch: of the chunks at the front of the plan those that nobody has fetched meanwhile."""
        front = [plan.popleft() for _ in range(min(len(plan), BATCH_CHUNKS))]
        batch: list[int] = []
        size = 0
        for position, (number, lacking) in enumerate(lacking_sizes(tree, self._cache, front)):
            if batch and size + lacking > BATCH_BYTES:
                plan.extendleft(reversed(front[position:]))
                break
            if lacking:
                batch.append(number)
                size += lacking
        refused: list[ZerofsError] = []

        def done(_: bytes | None, error: ZerofsError | None) -> None:
            if error is not None:
                refused.append(error)

        self._asked, self._asked_at, self._refused = batch, now, refused
        self._fetcher.request((tree.chunk(number) for number in batch), done)
        self._next = max(now, self._next) + size / self._rate

    def _lacking(self, tree: Index, numbers: list[int]) -> list[int]:
        return [number for number, size in lacking_sizes(tree, self._cache, numbers) if size]

    def _is_full(self) -> bool:
        """Whether more would not fit, or push out what others may want: what nobody asked for is not worth that."""
        return self._cache.full or self._cache.room() < self._cache.capacity * ROOM
