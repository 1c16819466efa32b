"""Writing to the cache: adding within the bound, and dropping what failed its check.

Place: behind `ChunkCache.put_many`, which the fetcher's writer thread calls with a batch.

The map size is the bound of the file.  LMDB cannot delete from a file without a free page, so some are
kept in reserve, and what would need them is refused.

Threads: any; `_lock` lets one of this process write at a time, and LMDB one of all processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import lmdb

from zerofs.cache import entry
from zerofs.cache.datafile import LostPageError, Mapped
from zerofs.cache.environment import Environment

RESERVE = 32  # pages
DROP_TOGETHER = 4  # entries; each costs a path of pages in both databases
STOP_PATIENCE = 2.0  # seconds; another process may hold LMDB's lock for longer
_TREE_PAGES = 8  # that one more entry may take in both databases, besides its own
_PAGE_HEADER = 16  # bytes, LMDB's

Named = tuple[bytes, bytes | memoryview]  # name, plain bytes


class Writer:
    """See the module."""

    def __init__(self, environment: Environment) -> None:
        self.stored = self.refused = 0
        self.full = False  # an entry was refused and nothing has been dropped since
        self._environment = environment
        self._lock = threading.Lock()
        self._condemned: set[bytes] = set()
        self._stopped = False
        self._freed = 0  # pages of dropped entries that a refused one may find

    def condemn(self, name: bytes) -> None:
        """Drop an entry with the next write."""
        self._condemned.add(name)

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
                added = self._attempt(self._add, piece) if piece else 0
                if added is not None:
                    present += added
                elif len(piece) > 1:
                    half = len(piece) // 2
                    pieces += [piece[half:], piece[:half]]
                else:
                    self._refuse()
        return present

    def stop(self) -> bool:
        """Let no more writes begin; whether none is under way, after waiting a moment for one that is."""
        self._stopped = True
        return self._lock.acquire(timeout=STOP_PATIENCE)

    # -- under _lock -------------------------------------------------------------------------

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
            group = list(islice(self._condemned, DROP_TOGETHER))
            with mapped.writing(mapped.chunks) as transaction:
                freed = sum(_delete(transaction, mapped, name) for name in group)
            self._condemned.difference_update(group)
            if freed:
                # LMDB gives pages out again only two transactions after they were freed.
                with mapped.writing(mapped.meta) as transaction:
                    transaction.put(b"dropped", time.time_ns().to_bytes(8, "big"))
                self._freed += freed
                self.full = False
        return 0

    def _add(self, mapped: Mapped, piece: list[Named]) -> int | None:
        """One transaction that adds what is missing; None where it would not fit."""
        if not self._fits(mapped, piece):
            return None
        with mapped.writing(mapped.chunks) as transaction:
            first = _last_sequence(transaction, mapped) + 1
            with transaction.cursor() as chunks, transaction.cursor(mapped.order) as order:
                held = {bytes(name) for name, _ in chunks.getmulti([name for name, _ in piece])}
                # in the order of arrival, which is that of the file's pages: what is read together lies together
                missing = [(name, plain) for name, plain in _distinct(piece) if name not in held]
                numbered = list(enumerate(missing, first))
                chunks.putmulti([(name, entry.pack(name, plain)) for name, plain in missing])
                order.putmulti(
                    [(number.to_bytes(8, "big"), _row(name, plain)) for number, (name, plain) in numbered],
                    append=True,
                )
        self.stored += len(missing)
        return len(piece)

    def _fits(self, mapped: Mapped, piece: list[Named]) -> bool:
        """Whether `piece` leaves the reserve alone, or can go where dropped entries were."""
        needed = sum(_pages(len(plain), mapped) for _, plain in piece)
        left = (self._environment.map_size - mapped.used()) // mapped.page_size - RESERVE
        if needed + _TREE_PAGES * len(piece) <= left:
            return True
        if needed > self._freed:
            return False
        self._freed -= needed
        return True

    def _refuse(self) -> None:
        self.refused += 1
        self.full = True
        size = self._environment.map_size
        self._environment.warn_once("full", f"full at {size} bytes; what is not in it is served without it")


def _pages(length: int, mapped: Mapped) -> int:
    """Pages of an entry with `length` plain bytes."""
    return -(-(length + entry.HEADER_SIZE + _PAGE_HEADER) // mapped.page_size)


def _distinct(piece: list[Named]) -> Iterable[Named]:
    """Of entries with the same name the first."""
    entries: dict[bytes, bytes | memoryview] = {}
    for name, plain in piece:
        entries.setdefault(name, plain)
    return entries.items()


def _row(name: bytes, plain: bytes | memoryview) -> bytes:
    """An entry's row in the order of arrival."""
    return len(plain).to_bytes(4, "big") + name


def _last_sequence(transaction: lmdb.Transaction[Any], mapped: Mapped) -> int:
    with transaction.cursor(mapped.order) as cursor:
        return int.from_bytes(cursor.key(), "big") if cursor.last() else 0


def _delete(transaction: lmdb.Transaction[Any], mapped: Mapped, name: bytes) -> int:
    """Remove an entry; returns the pages that this sets free.  Its row in the order goes when its turn comes."""
    value = transaction.get(name)
    if value is None:
        return 0
    pages = _pages(len(value) - entry.HEADER_SIZE, mapped)
    transaction.delete(name)
    return pages
