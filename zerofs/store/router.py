"""The router: asks for each chunk where it may be, in order, until somebody has it whole.

Its place is between the fetcher, whose threads call `fetch_batches` concurrently, and the stores.
A miss, an error or a chunk that does not verify goes on to the next destination; connection trouble is
tried again, with pauses, until the deadline.  The replicas of a pool are asked in the order of their speed (`want`),
and a late one gets another beside it (`race`).  Destinations whose breaker is open come last.

The router's own state never changes after it is made, but for who gave a chunk of which candidates last (only a guess)
and which candidates there are for ids that begin alike, each written in one step; breakers, stores and the write-back
queue have their own locks, and none is held here while anything is waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from zerofs.errors import ChunkError, StoreError, ZerofsError
from zerofs.store.asking import Answers, Asking
from zerofs.store.backoff import Backoff
from zerofs.store.base import Payload
from zerofs.store.breaker import TRIAL
from zerofs.store.destination import Destination
from zerofs.store.helpers import Helpers
from zerofs.store.ids import id_digits, id_text
from zerofs.store.layers import RouterConfig, UnusableUrl
from zerofs.store.link import Link
from zerofs.store.race import Hedges, HedgeStats, Race
from zerofs.store.ranges import IdRange
from zerofs.store.url import StoreUrl
from zerofs.store.want import Candidate, Want, in_order
from zerofs.store.writeback import WriteBack

Accept = Callable[[int, Payload], None]
Judge = Callable[[Sequence[tuple[int, Payload]]], Sequence[ChunkError | None]]
Fail = Callable[[int, ZerofsError], None]

CLOSE_TIMEOUT = 2.0  # seconds that closing gives to what is queued for cache pools
PROBE_TIMEOUT = 10.0
MOST_KNOWN = 4096  # beginnings of ids whose candidates are kept

_logger = logging.getLogger(__name__)


class _Pool(NamedTuple):
    rules: tuple[tuple[IdRange, Destination], ...]
    is_cache: bool

    def holders(self, digits: str) -> Iterator[Destination]:
        return (destination for ids, destination in self.rules if ids.matches(digits))


class Router:
    """Layers, top first, as one source of chunks.  Thread-safe."""

    def __init__(self, layers: Sequence[RouterConfig], helpers: Helpers | None = None) -> None:
        """`helpers` wait for replicas of which several are asked at once."""
        self._destinations: dict[StoreUrl | UnusableUrl, Destination] = {}
        self._lookup: list[_Pool] = []
        self._caches: list[_Pool] = []
        for layer in layers:
            pools = {name: self._pool(layer, name) for name in (*layer.lookup, *layer.cache)}
            self._lookup += [pools[name] for name in layer.lookup]
            self._caches += [pools[name] for name in layer.cache]
        # All that ranges look at; of ids that agree in it the candidates are one and the same tuple.
        self._telling_digits = max(
            (len(ids.first) for pool in self._lookup for ids, _ in pool.rules), default=0
        )
        self._known: dict[str, tuple[Candidate, ...]] = {}
        self._givers: dict[tuple[Candidate, ...], Destination] = {}
        self._nowhere = Link()
        self._write_back = WriteBack()
        self._has_replicas = any(len(pool.rules) > 1 for pool in self._lookup)
        self._helpers = helpers or Helpers()
        self._hedges = Hedges()
        self._closing = threading.Event()

    def fetch_many(self, ids: Sequence[bytes], accept: Accept, fail: Fail, deadline: float) -> None:
        """Fetch chunks, and hand each to `accept(index, payload)` or its error to `fail(index, error)`.

        Both are called in the calling thread, one of them once per index, in no order.  A ChunkError from
        `accept` rejects the payload: the next destination is asked, and `accept` may be called again.
        Any other exception of theirs ends the call.  `accept` keeps no payload, but may keep a copy.
        `deadline` is a value of ``time.monotonic()``.
        """
        self.fetch_batches(ids, lambda batch: [_verdict(accept, *each) for each in batch], fail, deadline)

    def fetch_batches(
        self, ids: Sequence[bytes], judge: Judge, fail: Fail, deadline: float, *, hedged: bool = True
    ) -> None:
        """The same for a reader that takes several payloads at once.

        `judge` gets what has arrived, as (index, payload) pairs, and returns for each None or the ChunkError
        for which it rejects the payload.  It must not keep payloads: their memory is used again.
        `hedged`: a second replica may be asked where the first one is late.
        """
        backoff = Backoff()
        began = time.monotonic()
        wants = [Want(index, chunk_id, self._candidates(chunk_id)) for index, chunk_id in enumerate(ids)]
        while wants:
            self._pass(wants, judge, deadline, hedged=hedged)
            unserved = [want for want in wants if not want.served]
            wants = [want for want in unserved if want.is_hopeful()]
            for want in unserved:
                if not want.is_hopeful():
                    fail(want.index, want.error())
            if wants and not backoff.wait(deadline, self._closing):
                _give_up(wants, began)
                for want in wants:
                    fail(want.index, want.error())
                return

    def way_to(self, chunk_id: bytes) -> Link:
        """The link to who is likely to give a chunk: the last giver among the same candidates, or the first asked."""
        candidates = self._candidates(chunk_id)
        giver = self._givers.get(candidates)
        if giver is None and candidates:
            giver = in_order(candidates)[0].destination
        return self._nowhere if giver is None else giver.link

    def ways(self) -> list[Link]:
        """The links to all destinations that ever gave anything; to all where none did."""
        links = [destination.link for destination in self._destinations.values()]
        return [link for link in links if link.bandwidth] or links

    def destinations(self) -> list[str]:
        """Every destination without its password, those asked first in front."""
        return [destination.display for destination in self._destinations.values()]

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until what is queued for cache pools is written or dropped."""
        return self._write_back.drain(timeout)

    def stats(self) -> list[dict[str, object]]:
        """What every destination was asked and gave, those asked first in front; see `Destination.stats`."""
        return [destination.stats() for destination in self._destinations.values()]

    def written_back(self) -> tuple[int, int]:
        """Chunks written to cache pools and chunks dropped on the way."""
        return self._write_back.counts()

    def hedges(self) -> HedgeStats:
        """How many chunks were asked of a second replica because the first one was late."""
        return self._hedges.stats()

    def close(self) -> None:
        """End retries, give the cache pools a last moment, and drop idle connections."""
        self._closing.set()
        self._write_back.close(CLOSE_TIMEOUT)
        for destination in self._destinations.values():
            destination.close()

    def _pool(self, layer: RouterConfig, name: str) -> _Pool:
        rules = tuple((rule.ids, self._destination(rule.url)) for rule in layer.pools[name])
        return _Pool(rules, name in layer.cache)

    def _destination(self, url: StoreUrl | UnusableUrl) -> Destination:
        return self._destinations.setdefault(url, Destination(url))

    def _candidates(self, chunk_id: bytes) -> tuple[Candidate, ...]:
        """Who may hold the chunk, in order; a store that several rules name is asked once."""
        digits = id_digits(chunk_id)[: self._telling_digits]
        known = self._known.get(digits)
        if known is not None:
            return known
        found: dict[Destination, Candidate] = {}
        for number, pool in enumerate(self._lookup):
            for destination in pool.holders(digits):
                found.setdefault(destination, Candidate(destination, number, pool.is_cache))
        candidates = tuple(found.values())
        if len(self._known) < MOST_KNOWN:
            self._known[digits] = candidates
        return candidates

    def _pass(self, wants: Sequence[Want], judge: Judge, deadline: float, *, hedged: bool) -> None:
        """Ask the candidates of every chunk until it is served or all have been asked once."""
        lines: dict[tuple[Candidate, ...], list[Candidate]] = {}
        for want in wants:
            worth_asking = want.worth_asking()
            line = lines.get(worth_asking)
            if line is None:
                line = lines[worth_asking] = in_order(worth_asking)
                self._probe_passed_over(line, want.id)
            want.waiting = line.copy()
        work = [want for want in wants if want.waiting]
        while work:
            destination = _next_destination(work)
            batch = [want for want in work if want.waiting[0].destination is destination]
            self._ask(Asking(destination, batch, _limit(destination, batch, deadline)), judge, hedged=hedged)
            for want in batch:
                want.waiting.pop(0)
            work = [want for want in work if want.waiting and not want.served]

    def _ask(self, asking: Asking, judge: Judge, *, hedged: bool) -> None:
        """Ask one destination for a batch, and where it is late and `hedged` others beside it."""
        late = self._patience(asking) if hedged else None
        if late is not None:

            def offer(destination: Destination, answers: Answers) -> None:
                self._offer(destination, answers, judge)

            if Race(self._helpers, self._hedges, offer).run(asking, late):
                return
        while (answers := asking.step()) is not None:
            if answers:
                self._offer(asking.destination, answers, judge)

    def _patience(self, asking: Asking) -> float | None:
        """Seconds after which others are to be asked as well; None where that cannot be."""
        if not self._has_replicas:
            return None
        shared = sum(want.rival() is not None for want in asking.owed)
        if not shared or not self._hedges.earn(shared):
            return None
        return asking.destination.latency.late

    def _offer(self, destination: Destination, answers: Answers, judge: Judge) -> None:
        """Have what arrived from `destination` judged; what came too late is dropped."""
        arrived: list[tuple[Want, Payload]] = []
        helped = False
        for want, found in answers:
            if want.served:
                helped = True
                continue
            if found is None or isinstance(found, StoreError):
                want.faults[destination] = found
            else:
                arrived.append((want, found))
        verdicts = judge([(want.index, payload) for want, payload in arrived]) if arrived else ()
        for (want, payload), fault in zip(arrived, verdicts, strict=True):
            if fault is not None:
                destination.rejected.add(f"{id_text(want.id)}: {fault}")
                want.faults[destination] = fault
                continue
            helped = want.served = True
            if len(want.candidates) > 1:
                self._givers[want.candidates] = destination
            if self._caches and not want.waiting[0].is_cache:
                self._fill_caches(want.id, payload)
        if not helped:
            destination.latency.useless()

    def _fill_caches(self, chunk_id: bytes, payload: Payload) -> None:
        digits = id_digits(chunk_id)
        for pool in self._caches:
            holder = next(pool.holders(digits), None)
            if holder is not None:
                self._write_back.offer(holder, chunk_id, bytes(payload))  # its memory is used again

    def _probe_passed_over(self, line: Sequence[Candidate], chunk_id: bytes) -> None:
        """Find out in the background whether a destination is back that others stand in for, or that is given up."""
        if not line:
            return
        first = line[0].destination.breaker
        if first.is_open and not first.is_given_up:
            return  # it is asked in any case
        for candidate in line[0 if first.is_given_up else 1 :]:
            if candidate.destination.breaker.claim_probe():
                arguments = (candidate.destination, chunk_id)
                threading.Thread(target=_probe, args=arguments, name="zerofs-probe", daemon=True).start()


def _verdict(accept: Accept, index: int, payload: Payload) -> ChunkError | None:
    try:
        accept(index, payload)
    except ChunkError as fault:
        return fault
    return None


def _probe(destination: Destination, chunk_id: bytes) -> None:
    try:
        for _ in destination.get_batches([chunk_id], time.monotonic() + PROBE_TIMEOUT):
            _logger.info("%s: answers again", destination.display)
    except StoreError as fault:
        _logger.debug("still passed over: %s", fault)


def _next_destination(work: Sequence[Want]) -> Destination:
    """Whom to ask next: the first chunk's, unless that one failed lately and another did not."""
    for want in work:
        if not want.waiting[0].destination.breaker.is_suspect:
            return want.waiting[0].destination
    return work[0].waiting[0].destination


def _limit(destination: Destination, batch: Sequence[Want], deadline: float) -> float:
    """When a destination must be done, so that those after it get their time, and nobody waits for what is down."""
    now = time.monotonic()
    share = (deadline - now) / max(len(want.waiting) for want in batch)
    return now + (min(share, TRIAL) if destination.breaker.is_given_up else share)


def _give_up(wants: Sequence[Want], began: float) -> None:
    """The time of `wants` is over: those who come next need not wait as long for the same destinations."""
    for destination in {each for want in wants for each in want.faults}:
        destination.breaker.give_up(began)
