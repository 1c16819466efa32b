"""The prefetcher of a mount: hears what readers want, and tells the background what to fetch.

Place: beside the way of a read.  The engine calls `touched` and goes on; the fetcher's background threads call
`take` when there is room in their budget.  What to fetch is decided by `plan`.

Threads: the engine's, which append to a queue and wake somebody at most; one that empties the queue and loads the
profile, started once the mount can be used; one for guesses, started when there is something to guess, which may
wait for a store.  `_lock` guards the plan and the recorder; the cache is looked into under it, nothing is waited for.
As long as nothing is missing nobody is woken: what was read meanwhile is looked at later.  When nothing is left to do,
all of them sleep without an end.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.chunk.codec import cache_name
from zerofs.errors import (
    ClosingError,
    FlistError,
    ProfileError,
    StoreRefusedError,
    StoreUnreachableError,
    ZerofsError,
    describe,
)
from zerofs.flist.model import Chunk
from zerofs.prefetch.following import Following
from zerofs.prefetch.plan import Outcome, Plan

if TYPE_CHECKING:
    from zerofs._fast import Touch
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.fetch.fetcher import Fetcher
    from zerofs.fetch.flight import Done
    from zerofs.flist.index import Index
    from zerofs.prefetch.recorder import Recorder

log = logging.getLogger(__name__)

MOST_UNHEARD = 4096  # touches that wait while nothing is missing
ALERT = 2.0  # seconds after a miss in which every touch is looked at at once
QUIET = 5.0  # seconds without a touch after which the recording is saved
FIRST_PAUSE, LONGEST_PAUSE = 3.0, 60.0  # seconds without prefetch after a store failed
END_PATIENCE = 1.0  # seconds for threads that are to end


class Prefetcher:
    """Prefetch for one mount of `index`.  `profile`: where that of the flist lies.

    `began`: when that mount began, where another process has served it before (time.monotonic()).
    `mode`: ``on``, ``heuristics`` (no replay) or ``profile`` (no guesses).
    """

    def __init__(
        self,
        index: Index,
        cache: ChunkCache,
        fetcher: Fetcher,
        *,
        mode: str,
        profile: Path,
        began: float | None = None,
    ) -> None:
        self._first = index  # what the profile is about
        self._index = index  # a swapped one, too, which numbers the chunks of the first alike
        self._cache = cache
        self._fetcher = fetcher
        self._profile = profile if mode in ("on", "profile") else None
        self._lock = threading.Lock()
        self._plan = Plan(index.map, self._present)
        self._recorder: Recorder | None = None  # made by the thread: until then touches wait
        self._make_recorder = partial(_new_recorder, index, profile, began)
        self._following = (
            Following(index, self._bytes_of, self._suggest) if mode in ("on", "heuristics") else None
        )
        self._touches: deque[Touch] = deque()
        self._untold: Callable[[], list[Touch]] = list  # touches that the engine did not tell yet
        self._wake = threading.Event()
        self._alert = False  # somebody wanted lately what the cache did not have by itself
        self._last_touch = self._last_cold = -ALERT
        self._pause = FIRST_PAUSE
        self._paused_until = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def listen(self, untold: Callable[[], list[Touch]]) -> None:
        """Take touches from the engine by `untold`, where it keeps them to itself for a while."""
        self._untold = untold

    def start(self) -> None:
        """Begin with the replay.  To be called once the mount can be used: what is warm must not wait for it."""
        self._fetcher.feed(self)
        self._thread.start()

    def swap(self, index: Index) -> None:
        """Go on with an index that knows all rows and chunks of the one before.  The recording stays with the first."""
        with self._lock:
            self._hear()
            self._index = index
            self._plan.swap(index.map)
        if self._following is not None:
            self._following.swap(index)

    def stats(self) -> dict[str, int | float]:
        """The counters; see `zerofs.prefetch.counters`."""
        with self._lock:
            self._hear()
            return self._plan.counters.as_dict()

    def close(self) -> None:
        """End the threads and save the recording."""
        self._closing = True
        self._fetcher.feed(None)
        self._wake.set()
        if self._following is not None:
            self._following.close(END_PATIENCE)
        if self._thread.is_alive():
            self._thread.join(END_PATIENCE)
        with self._lock:
            self._hear()
            if self._recorder is not None:
                self._recorder.save()
            counters = self._plan.counters.as_dict()
            if counters["demanded"] or counters["prefetched"]:  # a mount that nobody used has nothing to say
                log.info("prefetch: %s", json.dumps(counters))

    # -- what readers want -----------------------------------------------------------------------

    def touched(self, touches: list[Touch]) -> bool:
        """Readers want these for the first time, the newest at the end; whether to be told at once of what comes next.

        Called by the engine.  Takes a microsecond.
        """
        if self._closing:
            return False
        self._touches.extend(touches)
        missed = bool(touches[-1][4])
        if missed or self._alert or len(self._touches) >= MOST_UNHEARD:
            self._wake.set()
        return missed or self._alert

    def _run(self) -> None:
        try:
            self._attend()
        except Exception:
            log.exception("nothing is prefetched any more")
            self._closing = True
            self._fetcher.feed(None)

    def _attend(self) -> None:
        recorder = self._make_recorder()
        with self._lock:
            self._recorder = recorder
        self._load()
        pause: float | None = None
        while not self._closing:
            self._wake.wait(pause)
            self._wake.clear()
            with self._lock:
                self._hear()
                pause = self._next_look(time.monotonic())
                left = self._plan.left
            if left:
                self._fetcher.wake_background()

    def _next_look(self, now: float) -> float | None:
        """Seconds until there is something to do that nobody wakes us for.  Saves what has come to rest."""
        self._alert = now < self._last_cold + ALERT
        if self._alert:
            return self._last_cold + ALERT - now
        if self._recorder is None or not self._recorder.unsaved:
            return None
        if now >= self._last_touch + QUIET:
            self._recorder.save()
            return None
        return self._last_touch + QUIET - now

    def _hear(self) -> None:
        """Take in what was touched, once there is a recorder.  Under the lock."""
        recorder = self._recorder
        if recorder is None:
            return
        self._touches.extend(self._untold())
        while self._touches:
            try:
                self._take_in(recorder, *self._touches.popleft())
            except FlistError as error:  # the disk cannot give a page of the index
                log.debug("a touch is lost: %s", error)

    def _take_in(
        self, recorder: Recorder, at: float, row: int, first: int, last: int, missing: tuple[int, ...]
    ) -> None:
        self._last_touch = at
        if not missing and at >= self._last_cold + ALERT:
            for number in self._plan.hit(row, first, last):
                recorder.wanted(number, at)
            return
        touched = self._plan.touched(row, first, last, missing)
        for number in touched.numbers:
            recorder.wanted(number, at)
        if touched.is_cold:
            self._last_cold = at
        if touched.begins and self._following is not None and at < self._last_cold + ALERT:
            self._following.begun(row)

    # -- what is fetched -------------------------------------------------------------------------

    def take(self, room: int) -> Sequence[tuple[Chunk, Done]]:
        """For the fetcher, see `zerofs.fetch.fetcher.Feeder`."""
        with self._lock:
            if self._closing or time.monotonic() < self._paused_until:
                return ()
            self._hear()
            if self._cache.full:
                self._plan.drop()
            try:
                return [self._wish(number) for number in self._plan.take(room)]
            except FlistError as error:  # as in `_hear`
                log.debug("nothing is prefetched at the moment: %s", error)
                return ()

    def _wish(self, number: int) -> tuple[Chunk, Done]:
        return self._index.chunk(number), partial(self._landed, number)

    def _landed(self, number: int, plain: bytes | None, error: ZerofsError | None) -> None:
        if plain is not None:
            outcome = Outcome.BROUGHT
        elif error is None:
            outcome = Outcome.NEEDLESS
        elif isinstance(error, StoreUnreachableError | StoreRefusedError | ClosingError):
            outcome = Outcome.POSTPONED
        else:
            outcome = Outcome.FAILED
        with self._lock:
            try:
                self._plan.landed(number, outcome)
            except FlistError:  # as in `_hear`: it is here, and not counted
                self._plan.landed(number, Outcome.NEEDLESS)
            if outcome is Outcome.BROUGHT:
                self._pause = FIRST_PAUSE
            elif outcome is Outcome.POSTPONED and not self._closing:
                self._rest(error)

    def _rest(self, error: ZerofsError | None) -> None:
        """Leave a store that fails to the readers for a while; the first touch after that goes on."""
        now = time.monotonic()
        if now < self._paused_until:
            return
        log.info("nothing is prefetched for %.0f s: %s", self._pause, error)
        self._paused_until = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _present(self, numbers: Sequence[int]) -> Sequence[bool]:
        chunks = self._index.map
        return self._cache.has_many([cache_name(chunks.chunk(number)[1]) for number in numbers])

    def _cached(self, chunk: Chunk) -> bytes | None:
        with self._cache.snapshot() as snapshot:
            return snapshot.read(cache_name(chunk.key))

    def _suggest(self, numbers: Sequence[int]) -> None:
        with self._lock:
            self._plan.suggest(numbers)
        self._fetcher.wake_background()

    def _bytes_of(self, number: int, done: Done) -> None:
        """Call `done` with the bytes of a chunk, which are fetched as a guess where nobody else wants them."""
        chunk = self._index.chunk(number)
        with self._lock:
            found = None if self._closing else self._cached(chunk)
            is_ours = found is None and self._plan.claim(number)
        if found is not None:
            done(found, None)
            return
        if is_ours:

            def landed(plain: bytes | None, error: ZerofsError | None) -> None:
                self._landed(number, plain, error)
                done(plain, error)

            if self._fetcher.request([chunk], landed):
                return
            self._landed(number, None, None)
        self._fetcher.submit(chunk, done)

    # -- the profile -----------------------------------------------------------------------------

    def _load(self) -> None:
        from zerofs.prefetch.merge import worth_replaying
        from zerofs.prefetch.profile import check_fits, read_profile

        if self._profile is None:
            return
        origin = str(self._profile)
        try:
            profile = read_profile(self._profile)
            check_fits(profile, self._first.content_hash, self._first.chunk_count, origin)
        except FileNotFoundError:
            return
        except ProfileError as error:
            log.warning("the access profile is ignored: %s", describe(error))
            return
        with self._lock:
            self._plan.replay(worth_replaying(profile))
            left = self._plan.left
        if left:
            self._fetcher.wake_background()


def _new_recorder(index: Index, profile: Path, began: float | None) -> Recorder:
    from zerofs.prefetch.recorder import Recorder

    return Recorder(index.content_hash, index.chunk_count, profile, began)
