"""The chunk cache: plain chunk bytes on the local disk, found by codec and key, handed out as views.

Place in the way of a read: the engine asks a :class:`Snapshot` first and answers from its view, without
a copy; what is missing goes to the fetcher, whose writer thread brings it here with `put_many`.

The file never exceeds its bound: the least recently used goes, and what does not fit even so is refused,
counted and served uncached.  The cache may be wrong or gone at any time and no error of it reaches a reader:
an entry whose bytes do not match their checksum is not found, and dropped with the next write; where the tree
itself is wrong, or LMDB says so, the file is set aside and an empty one takes its place (see `environment`).

Threads: any.  Readers take no lock; writers see `writer`.  A reader pins the pages of its snapshot, and
the file grows meanwhile where others drop and add: release a snapshot within seconds.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import lmdb

from zerofs._fast import PinnedTree, WorkingSet, take_fault
from zerofs.cache import entry, environment
from zerofs.cache.datafile import CHUNKS_DATABASE, Mapped
from zerofs.cache.environment import Environment
from zerofs.cache.room import Room, measure
from zerofs.cache.writer import Named, Writer

logger = logging.getLogger(__name__)

PAGE = mmap.PAGESIZE  # that of LMDB's files


class CacheStats(NamedTuple):
    """What a cache holds, and what this process did with it."""

    entries: int
    used: int  # bytes in use by entries and trees
    file: int  # bytes of the file
    size_limit: int  # bytes
    free_limit: int  # bytes of the disk that stay free
    stored: int  # entries
    evicted: int  # entries that went for others
    refused: int  # entries that did not fit
    damaged: int  # entries that failed their check
    errors: int  # of LMDB or the disk
    replaced: int  # files set aside


class ChunkCache:
    """The cache in `directory`, shared with whoever else has it open, in this process or another.

    `size_limit` (bytes) bounds its file; of several users the first decides, and None leaves it as it was.
    Where the disk has less than `free_limit` bytes free, the file does not grow.  Raises CacheError where the
    directory cannot be used; a bad file in it is no error.
    """

    def __init__(self, directory: Path, *, size_limit: int | None, free_limit: int = 0) -> None:
        self._environment = environment.acquire(directory, size_limit, free_limit)
        self._writer = Writer(self._environment)
        self._live: set[Snapshot] = set()
        self._damaged = 0
        self._closed = False

    @property
    def directory(self) -> Path:
        return self._environment.path

    @property
    def size_limit(self) -> int:
        """Bytes that the file never exceeds."""
        return self._environment.map_size

    @property
    def full(self) -> bool:
        """Whether an entry was refused because all that is here must stay, and none has been stored since."""
        return self._writer.full

    def room(self) -> int:
        """Bytes that can be stored without letting go of anything, about."""
        mapped = self._environment.mapped
        room = None if mapped is None else self._room(mapped)
        return 0 if room is None else max(0, room.left) * room.page_size

    @property
    def capacity(self) -> int:
        """Bytes of entries that fit into an empty cache, about; the disk may allow less."""
        return Room(PAGE, 0, 0, self.size_limit // PAGE).left * PAGE

    def snapshot(self) -> Snapshot:
        """The cache as it is now, for one thread; takes about a microsecond."""
        mapped = self._environment.mapped
        transaction = None
        if mapped is not None:
            try:
                transaction = mapped.env.begin(mapped.chunks, buffers=True)
            except lmdb.Error as error:
                self._environment.trouble(mapped, error)
        snapshot = Snapshot(self, mapped, transaction)
        self._live.add(snapshot)
        return snapshot

    def working_set(self) -> WorkingSet:
        """Where one mount says what it reads: what was used lately stays longest."""
        return self._environment.usage.working_set()

    def has_many(self, names: Sequence[bytes]) -> list[bool]:
        """Which of `names` are there, unverified."""
        with self.snapshot() as snapshot:
            return [snapshot.holds(name) for name in names]

    def put_many(self, entries: Iterable[Named]) -> int:
        """Store (name, plain bytes) pairs; returns how many of them are in the cache afterwards.

        One transaction where they fit; near the bound in smaller pieces, so that what fits gets in.
        """
        return self._writer.write(entries)

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """(name, plain bytes) of all entries, unverified; those that come or go meanwhile may be among them or not."""
        after = b""
        while True:
            with self.snapshot() as snapshot:
                names = snapshot.names(after)
            if not names:
                return
            yield from names
            after = names[-1][0]

    def drop_many(self, names: Iterable[bytes]) -> None:
        """Remove entries."""
        for name in names:
            self._writer.condemn(name)
        self._writer.write(())

    def drop(self, name: bytes) -> None:
        """Remove an entry, if it is there."""
        self.drop_many((name,))

    def stats(self) -> CacheStats:
        mapped = self._environment.mapped
        entries = used = file = 0
        if mapped is not None and (room := self._room(mapped)) is not None:
            entries, used, file = room.entries, room.live * room.page_size, room.file * room.page_size
        return CacheStats(
            entries,
            used,
            file,
            self.size_limit,
            self._environment.floor,
            self._writer.stored,
            self._writer.evictor.evicted,
            self._writer.refused,
            self._damaged,
            self._environment.errors,
            self._environment.replaced,
        )

    def shrink(self, size: int) -> int:
        """Evict until about `size` bytes are in use, or nothing more may go; the bytes in use then."""
        return self._writer.shrink(size // PAGE) * PAGE

    def await_shortage(self, seen: int, seconds: float) -> int:
        """Wait, for `seconds` at most, until a writer of any process lacks pages that snapshots keep: end these then.

        Returns at once where that has happened since `seen` was returned; what to give the next time.
        """
        return self._environment.usage.await_asked(seen, seconds)

    def wake(self) -> None:
        """Have all who `await_shortage` look up, as if there were one."""
        self._environment.usage.ask_readers()

    def close(self) -> None:
        """Give the cache up.  Where a snapshot is out, or a write does not end, the file stays mapped."""
        if not self._closed:
            self._closed = True
            in_use = not self._writer.stop() or bool(self._live)
            environment.release(self._environment, keep_mapped=in_use)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _room(self, mapped: Mapped) -> Room | None:
        try:
            with mapped.env.begin() as transaction:
                return measure(mapped, transaction, self.size_limit, self._environment.floor)
        except lmdb.Error:
            return None

    def _condemn(self, name: bytes, seen: int) -> None:
        if not self._writer.condemn(name, seen):
            return  # others read it, too, or this snapshot is older than what is there now
        self._damaged += 1
        logger.info("cache %s: entry %s is damaged and will be fetched anew", self.directory, name.hex())


class Snapshot:
    """The cache as it was at one moment.  For one thread at a time; views are valid until `release`."""

    __slots__ = ("_cache", "_environment", "_mapped", "_sought", "_transaction", "_tree")

    def __init__(
        self, cache: ChunkCache, mapped: Mapped | None, transaction: lmdb.Transaction[Any] | None
    ) -> None:
        self._cache = cache
        self._environment: Environment = cache._environment
        self._mapped = mapped
        self._transaction = transaction
        self._tree: PinnedTree | None = None
        self._sought = False  # whether `tree` was asked for

    def tree(self) -> PinnedTree | None:
        """What may be walked without LMDB, by any thread, until `release`; None where only LMDB can be asked."""
        if not self._sought:
            self._sought, self._tree = True, self._pinned()
        return self._tree

    def find(self, name: bytes, *, verify: bool = True) -> memoryview | None:
        """The plain bytes under `name` as a view of the map, or None.

        The view is for the kernel: hand it to a system call, which fails with EFAULT where the disk cannot give a
        page of it.  `verify` reads all of them once against their checksum; without it only the header is checked.
        """
        plain = self._look_up(name, verify=verify)
        if plain is None or self._mapped is None or self._mapped.guard is None:
            return plain
        return self._mapped.guard.for_kernel(plain)

    def read(self, name: bytes) -> bytes | None:
        """A verified copy of the plain bytes under `name`, or None."""
        plain = self._look_up(name, verify=True)
        if plain is None:
            return None
        copy = bytes(plain)
        fault = take_fault()
        if fault:
            self._lost_page(name, plain, fault)
            return None
        return copy

    def read_many(self, names: Sequence[bytes]) -> list[bytes | None]:
        """`read` each of `names`, of which few are expected to be there."""
        there = self._likely(names)
        return [self.read(name) if name in there else None for name in names]

    def is_readable(self, found: memoryview) -> bool:
        """Whether the disk gives every page of what `find` found, as far as it was not in memory already."""
        guard = None if self._mapped is None else self._mapped.guard
        if guard is None:
            return True
        take_fault()
        guard.touch(found)
        if not take_fault():
            return True
        guard.restore()
        return False

    def names(self, after: bytes = b"", most: int = 1024) -> list[tuple[bytes, int]]:
        """(name, plain bytes) of the first `most` entries behind `after`, by name; unverified."""
        if self._transaction is None or self._mapped is None:
            return []
        take_fault()
        found: list[tuple[bytes, int]] = []
        try:
            with self._transaction.cursor() as cursor:
                if cursor.set_range(after or b"\0"):
                    for name, value in cursor:
                        if len(found) == most:
                            break
                        if bytes(name) != after:
                            found.append((bytes(name), max(0, len(value) - entry.HEADER_SIZE)))
        except lmdb.Error as error:
            self._environment.trouble(self._mapped, error)
        if take_fault():
            self._environment.lost_page(self._mapped)
        return found

    def holds(self, name: bytes) -> bool:
        """Whether there is something under `name`, unverified."""
        return self._look_up(name, verify=False) is not None

    def _pinned(self) -> PinnedTree | None:
        if self._transaction is None or self._mapped is None or self._mapped.guard is None:
            return None
        try:
            return PinnedTree(
                self._mapped.guard, self._mapped.page_size, self._transaction.id(), CHUNKS_DATABASE
            )
        except (LookupError, lmdb.Error):
            return None

    def _likely(self, names: Sequence[bytes]) -> Container[bytes]:
        """Those of `names` that are there, or all where something is in the way, which each will say itself."""
        if self._transaction is None or self._mapped is None:
            return ()
        take_fault()
        try:
            with self._transaction.cursor() as cursor:
                there = {bytes(name) for name, _ in cursor.getmulti(names)}
        except lmdb.Error:
            return names
        return names if take_fault() else there

    def _look_up(self, name: bytes, *, verify: bool) -> memoryview | None:
        """What `find` finds, in the guarded map."""
        if self._transaction is None or self._mapped is None:
            return None
        take_fault()
        value = plain = trouble = None
        try:
            value = self._transaction.get(name)
            plain = None if value is None else entry.unpack(name, value, verify=verify)
        except lmdb.BadValsizeError:
            return None  # longer than any name in the cache
        except (entry.DamagedEntryError, entry.ForeignEntryError, lmdb.Error) as error:
            trouble = error
        fault = take_fault()
        if fault:
            self._lost_page(name, value, fault)
            return None
        if isinstance(trouble, entry.DamagedEntryError):
            self._cache._condemn(name, self._transaction.id())
        elif isinstance(trouble, entry.ForeignEntryError):
            self._environment.replace(self._mapped, "an entry lies where another belongs")
        elif trouble is not None:
            self._environment.trouble(self._mapped, trouble)
        return plain

    def _lost_page(self, name: bytes, value: memoryview | None, fault: int) -> None:
        """The disk cannot give the page at `fault`: one of the entry's own, or one of the trees that led to it."""
        assert self._mapped is not None and self._mapped.guard is not None
        assert self._transaction is not None
        if value is not None and self._mapped.guard.holds(value, fault):
            self._mapped.guard.restore()
            self._cache._condemn(name, self._transaction.id())
        else:
            self._environment.lost_page(self._mapped)

    def release(self) -> None:
        """End the snapshot, and with it all views that it gave."""
        transaction, self._transaction = self._transaction, None
        self._cache._live.discard(self)
        if transaction is not None:
            transaction.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
