"""The router: asks for each chunk where it may be, in order, until somebody has it whole.

Its place is between the fetcher, whose threads call `fetch_batches` concurrently, and the stores.
A miss, an error or a chunk that does not verify goes on to the next destination; connection trouble is
tried again, with pauses, until the deadline.  Destinations whose breaker is open come last.

The router's own state never changes after it is made; breakers, stores and the write-back queue have
their own locks, and none is held here while anything is waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from zerofs.errors import (
    ChunkError,
    ChunkMissingError,
    StoreAuthError,
    StoreError,
    StoreProtocolError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnreachableError,
    ZerofsError,
)
from zerofs.store.backoff import Backoff
from zerofs.store.base import Found, Payload
from zerofs.store.destination import Destination
from zerofs.store.ids import id_digits, id_text
from zerofs.store.layers import RouterConfig, UnusableUrl
from zerofs.store.ranges import IdRange
from zerofs.store.url import StoreUrl
from zerofs.store.writeback import WriteBack

Accept = Callable[[int, Payload], None]
Judge = Callable[[Sequence[tuple[int, Payload]]], Sequence[ChunkError | None]]
Fail = Callable[[int, ZerofsError], None]

CLOSE_TIMEOUT = 2.0  # seconds that closing gives to what is queued for cache pools
PROBE_TIMEOUT = 10.0

# Which error speaks for several: what the user has to mend before what may pass, a miss last.
_TELLING: tuple[type[ZerofsError], ...] = (
    StoreAuthError,
    ChunkError,
    StoreRefusedError,
    StoreProtocolError,
    StoreTimeoutError,
    StoreUnreachableError,
    StoreError,
)

_logger = logging.getLogger(__name__)


class _Pool(NamedTuple):
    rules: tuple[tuple[IdRange, Destination], ...]
    is_cache: bool

    def holders(self, digits: str) -> Iterator[Destination]:
        return (destination for ids, destination in self.rules if ids.matches(digits))


class _Candidate(NamedTuple):
    destination: Destination
    is_cache: bool


class _Want:
    """One chunk on its way: who is still to be asked in this pass, and what the others said."""

    __slots__ = ("candidates", "faults", "id", "index", "served", "waiting")

    def __init__(self, index: int, chunk_id: bytes, candidates: list[_Candidate]) -> None:
        self.index = index
        self.id = chunk_id
        self.candidates = candidates
        self.waiting: list[_Candidate] = []
        self.faults: dict[Destination, ZerofsError | None] = {}  # None: it lacks the chunk
        self.served = False

    def start_pass(self) -> None:
        """Line up those worth asking: all at first, later those that were out of reach."""
        self.waiting = [each for each in self.candidates if self._worth_asking(each.destination)]
        if len(self.waiting) > 1:
            self.waiting.sort(key=lambda each: each.destination.breaker.is_open)

    def is_hopeful(self) -> bool:
        """Whether asking again may help."""
        return any(
            isinstance(fault, StoreUnreachableError) and not destination.breaker.is_given_up
            for destination, fault in self.faults.items()
        )

    def _worth_asking(self, destination: Destination) -> bool:
        return destination not in self.faults or isinstance(self.faults[destination], StoreUnreachableError)


class Router:
    """Layers, top first, as one source of chunks.  Thread-safe."""

    def __init__(self, layers: Sequence[RouterConfig]) -> None:
        self._destinations: dict[StoreUrl | UnusableUrl, Destination] = {}
        self._lookup: list[_Pool] = []
        self._caches: list[_Pool] = []
        for layer in layers:
            pools = {name: self._pool(layer, name) for name in (*layer.lookup, *layer.cache)}
            self._lookup += [pools[name] for name in layer.lookup]
            self._caches += [pools[name] for name in layer.cache]
        self._write_back = WriteBack()
        self._closing = threading.Event()

    def fetch_many(self, ids: Sequence[bytes], accept: Accept, fail: Fail, deadline: float) -> None:
        """Fetch chunks, and hand each to `accept(index, payload)` or its error to `fail(index, error)`.

        Both are called in the calling thread, one of them once per index, in no order.  A ChunkError from
        `accept` rejects the payload: the next destination is asked, and `accept` may be called again.
        Any other exception of theirs ends the call.  `accept` keeps no payload, but may keep a copy.
        `deadline` is a value of ``time.monotonic()``.
        """
        self.fetch_batches(ids, lambda batch: [_verdict(accept, *each) for each in batch], fail, deadline)

    def fetch_batches(self, ids: Sequence[bytes], judge: Judge, fail: Fail, deadline: float) -> None:
        """The same for a reader that takes several payloads at once.

        `judge` gets what has arrived, as (index, payload) pairs, and returns for each None or the ChunkError
        for which it rejects the payload.  It must not keep payloads: their memory is used again.
        """
        backoff = Backoff()
        wants = [_Want(index, chunk_id, self._candidates(chunk_id)) for index, chunk_id in enumerate(ids)]
        while wants:
            self._pass(wants, judge, deadline)
            unserved = [want for want in wants if not want.served]
            wants = [want for want in unserved if want.is_hopeful()]
            for want in unserved:
                if not want.is_hopeful():
                    fail(want.index, _final_error(want))
            if wants and not backoff.wait(deadline, self._closing):
                for want in wants:
                    fail(want.index, _final_error(want))
                return

    def destinations(self) -> list[str]:
        """Every destination without its password, those asked first in front."""
        return [destination.display for destination in self._destinations.values()]

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until what is queued for cache pools is written or dropped."""
        return self._write_back.drain(timeout)

    def written_back(self) -> tuple[int, int]:
        """Chunks written to cache pools and chunks dropped on the way."""
        return self._write_back.counts()

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

    def _candidates(self, chunk_id: bytes) -> list[_Candidate]:
        """Who may hold the chunk, in order; a store that several rules name is asked once."""
        digits = id_digits(chunk_id)
        found: dict[Destination, _Candidate] = {}
        for pool in self._lookup:
            for destination in pool.holders(digits):
                found.setdefault(destination, _Candidate(destination, pool.is_cache))
        return list(found.values())

    def _pass(self, wants: Sequence[_Want], judge: Judge, deadline: float) -> None:
        """Ask the candidates of every chunk until it is served or all have been asked once."""
        for want in wants:
            want.start_pass()
            self._probe_passed_over(want)
        work = [want for want in wants if want.waiting]
        while work:
            destination = _next_destination(work)
            batch = [want for want in work if want.waiting[0].destination is destination]
            self._ask(destination, batch, judge, deadline)
            for want in batch:
                want.waiting.pop(0)
            work = [want for want in work if want.waiting and not want.served]

    def _ask(self, destination: Destination, batch: list[_Want], judge: Judge, deadline: float) -> None:
        """Ask one destination for a batch; a chunk that it cannot give does not stop the others."""
        limit = _share(batch, deadline)
        position = 0
        while position < len(batch):
            try:
                for payloads in destination.get_batches([want.id for want in batch[position:]], limit):
                    asked = batch[position : position + len(payloads)]
                    position += len(payloads)
                    self._offer(destination, asked, payloads, judge)
                return
            except (StoreUnreachableError, StoreRefusedError) as fault:
                for want in batch[position:]:
                    want.faults[destination] = fault
                return
            except StoreError as fault:
                batch[position].faults[destination] = fault
                position += 1

    def _offer(
        self, destination: Destination, asked: list[_Want], payloads: Sequence[Found], judge: Judge
    ) -> None:
        """Have what arrived from `destination` judged."""
        arrived: list[tuple[_Want, Payload]] = []
        for want, payload in zip(asked, payloads, strict=True):
            if payload is None or isinstance(payload, StoreError):
                want.faults[destination] = payload
            else:
                arrived.append((want, payload))
        if not arrived:
            return
        verdicts = judge([(want.index, payload) for want, payload in arrived])
        for (want, payload), fault in zip(arrived, verdicts, strict=True):
            if fault is not None:
                destination.rejected.add(f"{id_text(want.id)}: {fault}")
                want.faults[destination] = fault
                continue
            want.served = True
            if not want.waiting[0].is_cache:
                self._fill_caches(want.id, payload)

    def _fill_caches(self, chunk_id: bytes, payload: Payload) -> None:
        digits = id_digits(chunk_id)
        for pool in self._caches:
            holder = next(pool.holders(digits), None)
            if holder is not None:
                self._write_back.offer(holder, chunk_id, bytes(payload))  # its memory is used again

    def _probe_passed_over(self, want: _Want) -> None:
        """Find out in the background whether a destination that others stand in for is back."""
        if not want.waiting or want.waiting[0].destination.breaker.is_open:
            return  # it is asked in any case
        for candidate in want.waiting[1:]:
            if candidate.destination.breaker.claim_probe():
                arguments = (candidate.destination, want.id)
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


def _next_destination(work: Sequence[_Want]) -> Destination:
    """Whom to ask next: the first chunk's, unless that one failed lately and another did not."""
    for want in work:
        if not want.waiting[0].destination.breaker.is_suspect:
            return want.waiting[0].destination
    return work[0].waiting[0].destination


def _share(batch: Sequence[_Want], deadline: float) -> float:
    """The time that one destination may take, so that those after it get theirs."""
    now = time.monotonic()
    return now + (deadline - now) / max(len(want.waiting) for want in batch)


def _final_error(want: _Want) -> ZerofsError:
    """One error for all that was tried, of the most telling class."""
    name = f"chunk {id_text(want.id)}"
    if not want.candidates:
        return ChunkMissingError(f"{name}: no router has a range for it")
    faults = [want.faults[each.destination] for each in want.candidates]
    reasons = (
        str(fault) if fault is not None else f"{each.destination.display}: missing"
        for each, fault in zip(want.candidates, faults, strict=True)
    )
    message = f"{name}: " + "; ".join(reasons)
    for kind in _TELLING:
        for fault in faults:
            if isinstance(fault, kind):
                return type(fault)(message, hint=fault.hint)
    return ChunkMissingError(message)
