"""One chunk on its way through the router: who may have it, who is still to be asked, what the others said.

Place: between `router` and `race`; belongs to the thread that fetches the chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
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
from zerofs.store.destination import Destination
from zerofs.store.ids import id_text
from zerofs.store.latency import fastest_first

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


class Candidate(NamedTuple):
    """A destination that may have a chunk."""

    destination: Destination
    pool: int  # in the order in which pools are asked
    is_cache: bool


class Want:
    """A chunk that is wanted."""

    __slots__ = ("candidates", "faults", "id", "index", "served", "waiting")

    def __init__(self, index: int, chunk_id: bytes, candidates: tuple[Candidate, ...]) -> None:
        self.index = index
        self.id = chunk_id
        self.candidates = candidates
        self.waiting: list[Candidate] = []  # those to be asked in this pass, the next one first
        self.faults: dict[Destination, ZerofsError | None] = {}  # None: it lacks the chunk
        self.served = False

    def worth_asking(self) -> tuple[Candidate, ...]:
        """All candidates at first, later those that were out of reach."""
        if not self.faults:
            return self.candidates
        return tuple(each for each in self.candidates if self._is_worth_asking(each.destination))

    def is_hopeful(self) -> bool:
        """Whether asking again may help."""
        return any(
            isinstance(fault, StoreUnreachableError) and not destination.breaker.is_given_up
            for destination, fault in self.faults.items()
        )

    def rival(self) -> Destination | None:
        """Who may be asked as well while the first one is: the next one of the same pool, if all is well with it."""
        if len(self.waiting) < 2 or self.waiting[1].pool != self.waiting[0].pool:
            return None
        destination = self.waiting[1].destination
        return None if destination.breaker.is_suspect else destination

    def error(self) -> ZerofsError:
        """One error for all that was tried, of the most telling class."""
        name = f"chunk {id_text(self.id)}"
        if not self.candidates:
            return ChunkMissingError(f"{name}: no router has a range for it")
        faults = [self.faults[each.destination] for each in self.candidates]
        reasons = (
            str(fault) if fault is not None else f"{each.destination.display}: missing"
            for each, fault in zip(self.candidates, faults, strict=True)
        )
        message = f"{name}: " + "; ".join(reasons)
        for kind in _TELLING:
            for fault in faults:
                if isinstance(fault, kind):
                    return type(fault)(message, hint=fault.hint)
        return ChunkMissingError(message)

    def _is_worth_asking(self, destination: Destination) -> bool:
        return destination not in self.faults or isinstance(self.faults[destination], StoreUnreachableError)


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Pools in their order, the destinations of each by how soon they answer; what keeps failing comes last."""
    ordered: list[Candidate] = []
    for _, pool in groupby(candidates, lambda each: each.pool):
        replicas = fastest_first(pool, lambda each: each.destination.latency)
        ordered += sorted(replicas, key=lambda each: each.destination.breaker.is_suspect)
    return sorted(ordered, key=lambda each: each.destination.breaker.is_open)
