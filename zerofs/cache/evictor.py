"""Letting go of entries, the least recently used first, in transactions that are short.

Place: below `writer`, under its lock.  Of several processes each may evict: they take turns by LMDB's lock,
the hand of the clock is the head of the order, which all of them move, and what was used they read from
`usage`.  None of them needs to know of another, and one that is killed leaves the order as its last
transaction had it.

Entries of live mounts stay while there are others: only when the hand has come round twice for nothing they
go, too.  What is pinned stays in any case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import lmdb

from zerofs.cache.clock import Row, Standing, Sweep, sweep
from zerofs.cache.datafile import Mapped
from zerofs.cache.environment import Environment
from zerofs.cache.order import key_of, last_sequence, rows, value_of
from zerofs.cache.room import pages_of

LOOK_TOGETHER = 1024  # rows in one transaction
DROP_TOGETHER = 256  # entries in one transaction
FEW = 4  # entries, where there is no room to delete more at once
MOST_LOOKED = 32768  # rows for one batch of chunks; the hand goes on from there the next time
PAUSE = 0.2  # seconds after a search that was in vain
RELENT = 30.0  # seconds after which working sets are spared again


class Evictor:
    """See the module."""

    def __init__(self, environment: Environment) -> None:
        self.evicted = 0
        self.exhausted = False  # the last search went by all there is, and what it left is pinned
        self._environment = environment
        self._barren = 0  # rows that the hand has come by since it last found something
        self._hard_until = 0.0  # time.monotonic(); until then nothing is spared but what is pinned
        self._resume = 0.0  # time.monotonic(); until then nothing is looked for

    def evict(self, mapped: Mapped, needed: int) -> int:
        """Free `needed` pages, or as many as there are to be had; how many they are.

        Raises lmdb.MapFullError where not even a few entries can be deleted, because readers keep all free pages.
        """
        if time.monotonic() < self._resume:
            return 0
        self.exhausted = False
        freed = looked = 0
        together = DROP_TOGETHER
        pinned = self._environment.pins.is_pinned()
        while freed < needed and looked < MOST_LOOKED:
            try:
                swept, gone = self._turn(mapped, needed - freed, together, pinned)
            except lmdb.MapFullError:
                if together == FEW:
                    raise
                together = FEW
                continue
            freed += gone
            looked += len(swept.victims) + len(swept.passed)
            if not (swept.victims or swept.passed) or not self._goes_on(mapped, swept, gone):
                self.exhausted = True
                break
        if freed:
            settle(mapped)
        else:
            self._resume = time.monotonic() + PAUSE
        return freed

    def look_again(self) -> None:
        """Something was stored since the last search: the next one need not be in vain."""
        self._resume = 0.0
        self.exhausted = False

    def _turn(
        self, mapped: Mapped, needed: int, together: int, pinned: Callable[[bytes], bool]
    ) -> tuple[Sweep, int]:
        """One transaction of the hand; what it came by, and the pages that this set free."""
        hard = time.monotonic() < self._hard_until
        look = LOOK_TOGETHER if together == DROP_TOGETHER else 4 * FEW
        with mapped.writing(mapped.chunks) as transaction:
            swept = sweep(
                list(islice(rows(transaction, mapped), look)),
                lambda name: self._standing(name, pinned),
                weigh=lambda row: pages_of(row.length, mapped.page_size),
                needed=needed,
                most=together,
                yielding=Standing.HELD if hard else Standing.IDLE,
            )
            gone = self._let_go(transaction, mapped, swept.victims)
            self._send_back(transaction, mapped, swept.passed)
        return swept, gone

    def _standing(self, name: bytes, pinned: Callable[[bytes], bool]) -> Standing:
        usage = self._environment.usage
        if pinned(name):
            return Standing.PINNED
        if usage.is_held(name):
            return Standing.HELD
        return Standing.USED if usage.was_used(name) else Standing.IDLE

    def _let_go(self, transaction: lmdb.Transaction[Any], mapped: Mapped, victims: list[Row]) -> int:
        freed = 0
        for row in victims:
            transaction.delete(key_of(row.sequence), db=mapped.order)
            if transaction.delete(row.name):  # it may be gone already
                freed += pages_of(row.length, mapped.page_size)
                self.evicted += 1
        return freed

    def _send_back(self, transaction: lmdb.Transaction[Any], mapped: Mapped, passed: list[Row]) -> None:
        """Give rows a place at the end, where there is an entry to them."""
        if not passed:
            return
        last = last_sequence(transaction, mapped)
        with transaction.cursor(mapped.chunks) as chunks:
            kept = [row for row in passed if chunks.set_key(row.name)]
        for row in passed:
            transaction.delete(key_of(row.sequence), db=mapped.order)
            self._environment.usage.pass_by(row.name)
        with transaction.cursor(mapped.order) as order:
            places = [
                (key_of(last + number), value_of(row.name, row.length)) for number, row in enumerate(kept, 1)
            ]
            order.putmulti(places, append=True)

    def _goes_on(self, mapped: Mapped, swept: Sweep, gone: int) -> bool:
        """Whether there is sense in another turn."""
        if gone:
            self._barren = 0
            return True
        self._barren += len(swept.victims) + len(swept.passed)
        with mapped.env.begin() as transaction:
            around = 2 * transaction.stat(mapped.order)["entries"]
        if self._barren < around:
            return True
        self._barren = 0
        if time.monotonic() < self._hard_until:
            return False  # what is left is pinned
        self._hard_until = time.monotonic() + RELENT
        return True


def settle(mapped: Mapped) -> None:
    """Let a transaction pass: LMDB gives pages out again only two transactions after they were freed."""
    with mapped.writing(mapped.meta) as transaction:
        transaction.put(b"dropped", time.time_ns().to_bytes(8, "big"))
