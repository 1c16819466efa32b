"""Making the file of a cache smaller: what is to stay is written beside it, and takes its place by a rename.

LMDB's file never shrinks by itself.  Place: `environment` calls this behind the door while nobody has the
cache open.  Killed at any time, it leaves the old file or the new one, whole, and at the most one temporary
file, which the next who opens the cache removes.  The order of the entries stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import lmdb

from zerofs.cache import entry
from zerofs.cache.clock import Row, Standing
from zerofs.cache.datafile import Mapped, create, open_data
from zerofs.cache.directory import CacheDirectory
from zerofs.cache.order import key_of, rows, value_of
from zerofs.cache.pins import Pins
from zerofs.cache.room import RESERVE, SLACK_SHARE, pages_for, pages_of
from zerofs.cache.usage import Usage

BATCH_BYTES = 8 << 20  # of plain bytes in one transaction


def compact(directory: CacheDirectory, size: int) -> None:
    """Write the file anew with what is worth most of it, so that it has at most `size` bytes.

    The caller holds the door and is alone.  Raises UntrustedError, LostPageError, lmdb.Error and OSError; the
    old file is there then.
    """
    fresh = directory.compacting
    discard(directory)
    old = open_data(directory, directory.data.stat().st_size)
    try:
        chosen = _chosen(directory, old, size)
        new = create(fresh, size)
        try:
            _copy(old, new, chosen)
            new.env.sync(True)
        finally:
            new.close()
        if old.guard is not None and not old.guard.whole:
            raise lmdb.CorruptedError("the disk cannot give a page of data.mdb")
    except BaseException:
        discard(directory)
        raise
    finally:
        old.close()
    fresh.rename(directory.data)
    directory.sync()


def discard(directory: CacheDirectory) -> int:
    """Remove what a compaction that was killed left (behind the door); its bytes on the disk."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        size = directory.compacting.stat().st_blocks * 512
        directory.compacting.unlink()
    return size


def _chosen(directory: CacheDirectory, old: Mapped, size: int) -> list[Row]:
    """The rows that stay, in their order: the best standing and the latest go in first."""
    usage, pins = Usage(directory.path, size), Pins(directory.state).is_pinned()

    def standing(name: bytes) -> Standing:
        if pins(name):
            return Standing.PINNED
        if usage.is_held(name):
            return Standing.HELD
        return Standing.USED if usage.was_used(name) else Standing.IDLE

    with old.env.begin() as transaction:
        known = {row.name: row for row in rows(transaction, old)}  # of two places the later
    bound = size // old.page_size
    left = bound - bound // SLACK_SHARE - RESERVE - pages_for([], old.page_size)
    left -= bound // 128  # the trees, whose pages are not all full
    chosen = []
    for row in sorted(known.values(), key=lambda row: (standing(row.name), row.sequence), reverse=True):
        pages = pages_of(row.length, old.page_size) + 1
        if pages > left:
            break
        left -= pages
        chosen.append(row)
    return sorted(chosen)


def _copy(old: Mapped, new: Mapped, chosen: Sequence[Row]) -> None:
    for batch in _batches(chosen):
        with (
            old.env.begin(old.chunks, buffers=True) as source,
            new.env.begin(new.chunks, write=True) as target,
        ):
            for row in batch:
                value = source.get(row.name)
                if value is not None and _is_sound(row.name, value):
                    target.put(row.name, value)
                    target.put(
                        key_of(row.sequence), value_of(row.name, row.length), db=new.order, append=True
                    )


def _batches(chosen: Sequence[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in chosen:
        batch.append(row)
        size += row.length
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _is_sound(name: bytes, value: Any) -> bool:
    try:
        entry.unpack(name, value, verify=True)
    except (entry.DamagedEntryError, entry.ForeignEntryError):
        return False
    return True
