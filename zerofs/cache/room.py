"""How many pages there are to be had: of the bound, of the disk, and of what is in use.

Place: `writer` measures in each of its transactions, so that all processes see what the others did.

Pages that no tree leads to are free, but not at once: LMDB uses what a transaction has freed two transactions
later, and not before the last reader has gone that may see it, which takes an engine a second.  So some *slack*
stays free beside the *reserve*, from which deletions live: nothing can be deleted from a file without a free page.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import lmdb

from zerofs.cache import entry
from zerofs.cache.datafile import Mapped

RESERVE = 32  # pages
SLACK_SHARE = 16  # one in so many pages of the bound
MOST_SLACK = 256 << 20  # bytes
# The most that is evicted for a disk that others have filled, as the file does not shrink: bytes, and a share of it.
_GIVE_BACK = 8 << 20
_GIVE_BACK_SHARE = 8
_PAGE_HEADER = 16  # bytes, LMDB's
_META_PAGES = 2
_SPLITS = 16  # pages that a batch adds to the trees, besides one for each entry and tree


class Room(NamedTuple):
    """The file at one moment, in pages."""

    page_size: int  # bytes
    live: int  # that some tree leads to
    file: int  # that the file has
    bound: int  # that it may have: what the map or, if that is less, the disk allows
    entries: int = 0  # not in pages

    @property
    def slack(self) -> int:
        return min(self.bound // SLACK_SHARE, MOST_SLACK // self.page_size)

    @property
    def left(self) -> int:
        """Pages that may be filled before something has to go; below 0 where too much is there."""
        free = self.bound - self.live
        listed = max(0, self.file - self.live) * 16 // self.page_size + 4  # LMDB's own list of what is free
        return free - listed - RESERVE - self.slack


def measure(mapped: Mapped, transaction: lmdb.Transaction[Any], map_size: int, floor: int) -> Room:
    """The room as `transaction` sees it: `map_size` bytes, while the disk keeps `floor` bytes free."""
    file = mapped.used() // mapped.page_size
    bound = map_size // mapped.page_size
    if floor:
        given = min(_GIVE_BACK // mapped.page_size, file // _GIVE_BACK_SHARE)
        bound = min(bound, file + max(_disk_pages(mapped, floor), -given))
    databases = [transaction.stat(each) for each in (mapped.chunks, mapped.order, mapped.meta)]
    pages = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in databases)
    return Room(mapped.page_size, _META_PAGES + 1 + pages, file, bound, databases[0]["entries"])


def pages_of(length: int, page_size: int) -> int:
    """Pages of an entry with `length` plain bytes."""
    return -(-(length + entry.HEADER_SIZE + _PAGE_HEADER) // page_size)


def pages_for(lengths: list[int], page_size: int) -> int:
    """Pages that a batch of entries with so many plain bytes takes, the trees' included."""
    return sum(pages_of(length, page_size) for length in lengths) + 2 * len(lengths) + _SPLITS


def _disk_pages(mapped: Mapped, floor: int) -> int:
    """Pages that the file may grow by; below 0 where the disk has less free than it should."""
    try:
        disk = os.statvfs(mapped.path.parent)
    except OSError:
        return 0
    return (disk.f_bavail * disk.f_frsize - floor) // mapped.page_size
