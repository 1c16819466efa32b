"""The chunk cache: plain chunk bytes on the local disk, found by codec and key, handed out as views.

Place in the way of a read: the engine asks a :class:`Snapshot` first and answers from its view, without
a copy; what is missing goes to the fetcher, whose writer thread brings it here with `put_many`.

The map size is the bound of the file: what does not fit is refused, counted and served uncached.  The
cache may be wrong or gone at any time and no error of it reaches a reader: an entry whose bytes do not
match their checksum is not found, and dropped with the next write; where the tree itself is wrong, or
LMDB says so, the file is set aside and an empty one takes its place (see `environment`).

Threads: any.  Readers take no lock.  Writers of one process take `_write_lock`, then LMDB's own, which is
held across processes.  A reader pins the pages of its snapshot, so a snapshot is released within seconds.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import lmdb

from zerofs.cache import entry, environment
from zerofs.cache.environment import Mapped

logger = logging.getLogger(__name__)

RESERVE = 32  # pages kept free: deleting from a full LMDB takes pages, too
_TREE_PAGES = 8  # that one more entry may take in both databases, besides its own
_PAUSE = 10.0  # seconds without writes after the disk refused one

_BROKEN = (
    lmdb.BadDbiError,
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.MapResizedError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


class CacheStats(NamedTuple):
    """What a cache holds, and what this process did with it."""

    entries: int
    used: int  # bytes of the file that were ever in use
    size_limit: int  # bytes
    stored: int  # entries
    refused: int  # entries that did not fit
    dropped: int  # entries that failed their check
    errors: int  # of LMDB or the disk
    replaced: int  # files set aside


class ChunkCache:
    """The cache in `directory`, shared with whoever else has it open, in this process or another.

    `size_limit` (bytes) bounds its file; of several users the first decides.  Raises CacheError where
    the directory cannot be used; a bad file in it is no error.
    """

    def __init__(self, directory: Path, *, size_limit: int) -> None:
        self._environment = environment.acquire(directory, size_limit)
        self._write_lock = threading.Lock()
        self._condemned: set[bytes] = set()  # failed their check; dropped with the next write
        self._live: set[Snapshot] = set()
        self._warned: set[str] = set()
        self._resume_writes = 0.0  # time.monotonic()
        self._freed = 0  # pages of dropped entries that a refused one may find
        self._stored = self._refused = self._dropped = self._errors = 0
        self._closed = False
        self.full = False  # an entry was refused and nothing has been dropped since

    @property
    def directory(self) -> Path:
        return self._environment.path

    @property
    def size_limit(self) -> int:
        """Bytes that the file never exceeds."""
        return self._environment.map_size

    def snapshot(self) -> Snapshot:
        """The cache as it is now, for one thread; takes about a microsecond."""
        mapped = self._environment.mapped
        transaction = None
        if mapped is not None:
            try:
                transaction = mapped.env.begin(mapped.chunks, buffers=True)
            except lmdb.Error as error:
                self._trouble(mapped, error)
        snapshot = Snapshot(self, mapped, transaction)
        self._live.add(snapshot)
        return snapshot

    def has_many(self, names: Sequence[bytes]) -> list[bool]:
        """Which of `names` are there, unverified."""
        with self.snapshot() as snapshot:
            return [snapshot.find(name, verify=False) is not None for name in names]

    def put_many(self, entries: Iterable[tuple[bytes, bytes | memoryview]]) -> int:
        """Store (name, plain bytes) pairs; returns how many of them are in the cache afterwards.

        One transaction where they fit; near the bound in smaller pieces, so that what fits gets in.
        """
        pieces = [list(entries)]
        stored = 0
        with self._write_lock:
            self._attempt(self._drop_condemned)
            while pieces:
                piece = pieces.pop()
                added = self._attempt(self._add, piece) if piece else 0
                if added is not None:
                    stored += added
                elif len(piece) > 1:
                    half = len(piece) // 2
                    pieces += [piece[half:], piece[:half]]
                else:
                    self._refuse()
        return stored

    def drop(self, name: bytes) -> None:
        """Remove an entry, if it is there."""
        self._condemned.add(name)
        self.put_many(())

    def stats(self) -> CacheStats:
        mapped = self._environment.mapped
        entries = used = 0
        if mapped is not None:
            with contextlib.suppress(lmdb.Error), mapped.env.begin() as transaction:
                entries, used = transaction.stat(mapped.chunks)["entries"], mapped.used()
        return CacheStats(
            entries,
            used,
            self.size_limit,
            self._stored,
            self._refused,
            self._dropped,
            self._errors,
            self._environment.replaced,
        )

    def close(self) -> None:
        """Give the cache up.  Snapshots should have been released; the file of others stays mapped."""
        if not self._closed:
            self._closed = True
            environment.release(self._environment, keep_mapped=bool(self._live))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing, under _write_lock ---------------------------------------------------------

    def _attempt(self, write: Callable[..., int | None], *arguments: object) -> int | None:
        """Run `write` on the open file.  Entries written; 0 after an error, None where they do not fit."""
        mapped = self._environment.mapped
        if mapped is None or time.monotonic() < self._resume_writes:
            return 0
        try:
            return write(mapped, *arguments)
        except lmdb.MapFullError:
            return None
        except (lmdb.Error, OSError) as error:
            self._trouble(mapped, error)
            return 0

    def _drop_condemned(self, mapped: Mapped) -> int:
        condemned = list(self._condemned)
        if not condemned:
            return 0
        self._environment.before_write()
        page = mapped.env.stat()["psize"]
        with mapped.env.begin(mapped.chunks, write=True, buffers=True) as transaction:
            freed = sum(_delete(transaction, mapped, name, page) for name in condemned)
        self._condemned.difference_update(condemned)
        if freed:
            # LMDB gives pages out again only two transactions after they were freed.
            with mapped.env.begin(mapped.meta, write=True) as transaction:
                transaction.put(b"dropped", time.time_ns().to_bytes(8, "big"))
            self._freed += freed
            self.full = False
        return 0

    def _add(self, mapped: Mapped, piece: list[tuple[bytes, bytes | memoryview]]) -> int | None:
        """One transaction that adds what is missing; None where it would not fit."""
        page = mapped.env.stat()["psize"]
        needed = sum(_pages(len(plain), page) for _, plain in piece)
        left = (self.size_limit - mapped.used()) // page - RESERVE
        if needed + _TREE_PAGES * len(piece) > left:
            if needed > self._freed:
                return None
            self._freed -= needed
        self._environment.before_write()
        added = 0
        with mapped.env.begin(mapped.chunks, write=True, buffers=True) as transaction:
            sequence = _last_sequence(transaction, mapped)
            for name, plain in piece:
                if transaction.get(name) is None:
                    sequence += 1
                    transaction.put(name, entry.pack(name, plain, sequence))
                    row = len(plain).to_bytes(4, "big") + name
                    transaction.put(sequence.to_bytes(8, "big"), row, append=True, db=mapped.order)
                    added += 1
        self._stored += added
        return len(piece)

    def _refuse(self) -> None:
        self._refused += 1
        self.full = True
        self._warn("full", f"full at {self.size_limit} bytes; what is not in it is served without it")

    # -- trouble, from any thread -----------------------------------------------------------

    def _condemn(self, name: bytes) -> None:
        self._dropped += 1
        self._condemned.add(name)
        logger.info("cache %s: entry %s is damaged and will be fetched anew", self.directory, name.hex())

    def _replace(self, mapped: Mapped, reason: str) -> None:
        self._errors += 1
        self._environment.replace(mapped, reason)
        self._condemned.clear()
        self._freed, self.full = 0, False

    def _trouble(self, mapped: Mapped, error: Exception) -> None:
        """Decide what an error of LMDB or of the disk means.  None is passed on."""
        if isinstance(error, _BROKEN):
            self._replace(mapped, f"data.mdb is damaged ({error})")
            return
        self._errors += 1
        if isinstance(error, lmdb.ReadersFullError):
            with contextlib.suppress(lmdb.Error):
                mapped.env.reader_check()
        else:
            self._resume_writes = time.monotonic() + _PAUSE
        self._warn(type(error).__name__, f"not written to for now: {error}")

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("cache %s: %s", self.directory, message)


class Snapshot:
    """The cache as it was at one moment.  For one thread at a time; views are valid until `release`."""

    __slots__ = ("_cache", "_mapped", "_transaction")

    def __init__(
        self, cache: ChunkCache, mapped: Mapped | None, transaction: lmdb.Transaction[Any] | None
    ) -> None:
        self._cache = cache
        self._mapped = mapped
        self._transaction = transaction

    def find(self, name: bytes, *, verify: bool = True) -> memoryview | None:
        """The plain bytes under `name` as a view of the map, or None.

        `verify` reads all of them once against their checksum; without it only the header is checked.
        """
        if self._transaction is None or self._mapped is None:
            return None
        try:
            value = self._transaction.get(name)
            return None if value is None else entry.unpack(name, value, verify=verify)
        except entry.DamagedEntryError:
            self._cache._condemn(name)
        except entry.ForeignEntryError:
            self._cache._replace(self._mapped, "an entry lies where another belongs")
        except lmdb.BadValsizeError:
            pass  # longer than any name of the cache
        except lmdb.Error as error:
            self._cache._trouble(self._mapped, error)
        return None

    def release(self) -> None:
        """End the snapshot, and with it all views that it gave."""
        transaction, self._transaction = self._transaction, None
        self._cache._live.discard(self)
        if transaction is not None:
            transaction.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _pages(length: int, page: int) -> int:
    """Pages of an entry with `length` plain bytes, LMDB's page header included."""
    return -(-(length + entry.HEADER_SIZE + 16) // page)


def _last_sequence(transaction: lmdb.Transaction[Any], mapped: Mapped) -> int:
    with transaction.cursor(mapped.order) as cursor:
        return int.from_bytes(cursor.key(), "big") if cursor.last() else 0


def _delete(transaction: lmdb.Transaction[Any], mapped: Mapped, name: bytes, page: int) -> int:
    """Remove an entry and its row in the order; returns the pages that this sets free."""
    value = transaction.get(name)
    if value is None:
        return 0
    sequence = entry.sequence_of(value).to_bytes(8, "big")
    pages = _pages(len(value) - entry.HEADER_SIZE, page)
    row = transaction.get(sequence, db=mapped.order)
    if row is not None and row[4:] == name:
        transaction.delete(sequence, db=mapped.order)
    transaction.delete(name)
    return pages
