"""Writing to the cache: adding within the bound, making room for it, and dropping what failed its check.

Place: behind `ChunkCache.put_many`, which the fetcher's writer thread calls with a batch.

The map size is the bound of the file, so that LMDB itself keeps it.  A batch that does not fit makes the
`evictor` let go of as much, and a little more.  Where that does not help, because readers keep the pages of
what is gone or because all that is left must stay, entries are refused and served uncached: nobody waits for
room for longer than a moment.

Threads: any; `_lock` lets one of this process write at a time, and LMDB one of all processes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import lmdb

from zerofs._fast import pack_entries
from zerofs.cache.datafile import LostPageError, Mapped
from zerofs.cache.environment import Environment
from zerofs.cache.evictor import FEW, Evictor, settle
from zerofs.cache.order import key_of, last_sequence, value_of
from zerofs.cache.room import Room, measure, pages_for

STOP_PATIENCE = 2.0  # seconds; another process may hold LMDB's lock for longer
EVICT_TOGETHER = 4 << 20  # bytes, beside what is needed, so that not every batch has to evict
TRIES = 6  # for one batch
PATIENCE = 0.25  # seconds for readers that keep freed pages
DESPAIR = 1.0  # seconds without patience after it was in vain
MOST_REMEMBERED = 4096  # entries that were dropped
_LOOK = 0.005  # seconds between looks

Named = tuple[bytes, bytes | memoryview]  # name, plain bytes


class Writer:
    """See the module."""

    def __init__(self, environment: Environment) -> None:
        self.stored = self.refused = 0
        self.full = False  # an entry was refused, as nothing may go for it, and none has been stored since
        self.evictor = Evictor(environment)
        self._environment = environment
        self._lock = threading.Lock()
        self._condemned: set[bytes] = set()
        # condemned entries → the transaction of `_dropped_from` by which they went
        self._dropped: dict[bytes, int] = {}
        self._dropped_from: Mapped | None = None
        self._stopped = False
        self._patient_from = 0.0  # time.monotonic()
        self._waits = 0  # for readers, since the present piece came

    def condemn(self, name: bytes, seen: int | None = None) -> bool:
        """Drop an entry with the next write; False where that was to be done, or was done, already.

        `seen`: the transaction as of which it was found.  What has been written since stays.
        """
        if name in self._condemned or (seen is not None and self._has_gone(name, seen)):
            return False
        self._condemned.add(name)
        return True

    def _has_gone(self, name: bytes, seen: int) -> bool:
        return self._dropped_from is self._environment.mapped and self._dropped.get(name, 0) > seen

    def write(self, entries: Iterable[Named]) -> int:
        """Drop what is condemned and add `entries`; returns how many of them are there afterwards."""
        pieces = [list(entries)]
        present = 0
        if self._stopped:
            return 0
        with self._lock:
            self._attempt(self._drop_condemned)
            while pieces:
                piece = pieces.pop()
                added = self._store(piece) if piece else 0
                if added is not None:
                    present += added
                elif len(piece) > 1:
                    half = len(piece) // 2
                    pieces += [piece[half:], piece[:half]]
                else:
                    self.refused += 1
        return present

    def shrink(self, pages: int) -> int:
        """Evict until no more than `pages` pages are in use, the trees' included; how many that are then."""
        with self._lock:
            while (live := self._live()) > pages:
                if not self._attempt(lambda mapped, more=live - pages: self.evictor.evict(mapped, more)):
                    break
        return live

    def stop(self) -> bool:
        """Let no more writes begin; whether none is under way, after waiting a moment for one that is."""
        self._stopped = True
        return self._lock.acquire(timeout=STOP_PATIENCE)

    # -- under _lock -------------------------------------------------------------------------

    def _store(self, piece: list[Named]) -> int | None:
        """Add `piece`, after making room for it where that is needed.  None where it does not fit."""
        self._waits = 0
        for _ in range(TRIES):
            added = self._attempt(self._add, piece)
            if added is not None:
                return added
            if not self._attempt(self._make_room, piece):
                break
        return None

    def _attempt(self, write: Callable[..., int | None], *arguments: object) -> int | None:
        """Run `write` on the open file.  Entries written; 0 after an error, None where they do not fit."""
        mapped = self._environment.writable()
        if mapped is None or self._stopped:
            return 0
        try:
            self._environment.before_write()
            return write(mapped, *arguments)
        except lmdb.MapFullError:
            return None
        except LostPageError:
            self._environment.lost_page(mapped)
            return 0
        except (lmdb.Error, OSError) as error:
            self._environment.trouble(mapped, error)
            return 0

    def _drop_condemned(self, mapped: Mapped) -> int:
        """Drop them a few at a time: each transaction has to do with the reserve."""
        while self._condemned:
            group = list(islice(self._condemned, FEW))
            with mapped.writing(mapped.chunks) as transaction:
                for name in group:
                    transaction.delete(name)  # its row in the order goes when its turn comes
                number = transaction.id()
            self._remember_dropped(mapped, group, number)
            self._condemned.difference_update(group)
            settle(mapped)
            self.full = False
        return 0

    def _remember_dropped(self, mapped: Mapped, names: list[bytes], transaction: int) -> None:
        """Snapshots that are older than `transaction` go on finding them for a while."""
        if self._dropped_from is not mapped or len(self._dropped) > MOST_REMEMBERED:
            self._dropped = {}
        self._dropped_from = mapped
        self._dropped.update(dict.fromkeys(names, transaction))

    def _add(self, mapped: Mapped, piece: list[Named]) -> int | None:
        """One transaction that adds what is missing; None where it would not fit."""
        with mapped.writing(mapped.chunks) as transaction:
            missing = self._missing(transaction, piece)
            if not missing:
                return len(piece)
            if self._needed(mapped, missing) > self._room(mapped, transaction).left:
                return None
            first = last_sequence(transaction, mapped) + 1
            places = [
                (key_of(number), value_of(name, len(plain)))
                for number, (name, plain) in enumerate(missing, first)
            ]
            with transaction.cursor() as chunks, transaction.cursor(mapped.order) as order:
                chunks.putmulti(pack_entries(missing))
                order.putmulti(places, append=True)
        self.stored += len(missing)
        self.full = False
        self.evictor.look_again()
        return len(piece)

    def _missing(self, transaction: lmdb.Transaction[Any], piece: list[Named]) -> list[Named]:
        """What is not there, in the order of arrival: that of the file's pages, so neighbours lie together."""
        with transaction.cursor() as chunks:
            held = {bytes(name) for name, _ in chunks.getmulti([name for name, _ in piece])}
        return [(name, plain) for name, plain in _distinct(piece) if name not in held]

    def _make_room(self, mapped: Mapped, piece: list[Named]) -> bool:
        """Evict for `piece`; whether there is sense in trying once more to add it."""
        with mapped.env.begin() as transaction:
            room = self._room(mapped, transaction)
        needed = self._needed(mapped, piece)
        if len(piece) > 1 and needed > room.bound // 4:
            return False  # in smaller pieces
        lacking = needed - room.left
        more = min(EVICT_TOGETHER // mapped.page_size, room.slack)
        if lacking <= 0:
            # It should have fitted: readers keep what is free, or no run of free pages is long enough.  As long as it
            # may be the readers nothing goes: they would keep that, too, and the whole cache be gone for nothing.
            if self._waits and not self.evictor.evict(mapped, more << self._waits):
                return False
            return self._await_readers(mapped)
        try:
            freed = self.evictor.evict(mapped, lacking + more)
        except lmdb.MapFullError:  # readers keep what deletions live from
            return self._await_readers(mapped)
        if freed < lacking and self.evictor.exhausted:
            self._say_full(room)
        return freed >= lacking

    def _say_full(self, room: Room) -> None:
        self.full = True
        size = room.bound * room.page_size
        self._environment.warn_once(
            "full", f"full at {size} bytes, and nothing in it may go; what is not in it is served without it"
        )

    def _await_readers(self, mapped: Mapped) -> bool:
        """Ask the readers of all processes to end their snapshots; whether they have, after a moment."""
        self._waits += 1
        if time.monotonic() < self._patient_from:
            return False
        mapped.env.reader_check()
        _settle_if_possible(mapped)
        since = mapped.env.info()["last_txnid"]
        _settle_if_possible(mapped)
        end = time.monotonic() + PATIENCE
        self._environment.usage.ask_readers()
        while _oldest_reader(mapped) < since:
            if time.monotonic() > end:
                self._patient_from = time.monotonic() + DESPAIR
                return False
            time.sleep(_LOOK)
        return True

    def _needed(self, mapped: Mapped, piece: list[Named]) -> int:
        return pages_for([len(plain) for _, plain in piece], mapped.page_size)

    def _room(self, mapped: Mapped, transaction: lmdb.Transaction[Any]) -> Room:
        return measure(mapped, transaction, self._environment.map_size, self._environment.floor)

    def _live(self) -> int:
        mapped = self._environment.mapped
        if mapped is None:
            return 0
        with mapped.env.begin() as transaction:
            return self._room(mapped, transaction).live


def _distinct(piece: list[Named]) -> Iterable[Named]:
    """Of entries with the same name the first."""
    entries: dict[bytes, bytes | memoryview] = {}
    for name, plain in piece:
        entries.setdefault(name, plain)
    return entries.items()


def _settle_if_possible(mapped: Mapped) -> None:
    """Readers may keep each page that is free; what they keep of older transactions is worth waiting for, too."""
    with contextlib.suppress(lmdb.MapFullError):
        settle(mapped)


def _oldest_reader(mapped: Mapped) -> float:
    """The transaction that the oldest snapshot of all processes shows; infinite where there is none."""
    lines = mapped.env.readers().splitlines()[1:]
    numbers = [line.split()[2] for line in lines if len(line.split()) == 3]
    return min((int(number) for number in numbers if number.isdecimal()), default=float("inf"))
