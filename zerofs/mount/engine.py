"""What both engines have in common: what they serve, and what can be asked of them.

An engine puts one tree behind one mount point.  There are two: `llfuse_engine` runs on every kernel, and
`fast_engine` answers the kernel itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from zerofs._fast import Lingering, Observer, Touch
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.fetch.fetcher import Fetcher
    from zerofs.flist.index import Index
    from zerofs.mount.failures import FailureLog
    from zerofs.mount.notify import Notifier


class Served(NamedTuple):
    """What an engine answers from."""

    tree: Index
    cache: ChunkCache
    fetcher: Fetcher
    failures: FailureLog
    observer: Observer | None = None  # is told what readers want


class ReadCounts(NamedTuple):
    """Reads that the kernel sent, since the start.  What its page cache answers it does not send."""

    answered: int
    bytes: int  # of those
    waited: int  # reads that had to wait for a chunk, however they ended
    waiting: int  # at this moment
    failed: int  # ended in EIO


class FuseEngine(Protocol):
    """One FUSE mount, made over a channel that is mounted: `start`, `unmount`, `close`, in this order."""

    name: str  # as ``--engine`` calls it
    notifier: Notifier
    device: str  # "major:minor" of the mounted file system
    ended: int  # a descriptor that becomes readable when no requests are taken any more
    lingering: Lingering  # names that a swap replaced and that still lead to the old node

    def start(self) -> None:
        """Serve requests from now on; the mount can be used when this returns."""
        ...

    def swap(self, index: Index, replaced: Iterable[tuple[tuple[int, bytes], int]]) -> None:
        """Serve `index`, which knows all rows and chunks of the one before.

        `replaced`: ((row of the directory, name), old row) of names that are to lead to the old node until they are
        released from `lingering`.
        """
        ...

    def reads(self) -> ReadCounts:
        """What was read so far."""
        ...

    def take_touches(self) -> list[Touch]:
        """What readers wanted and the observer was not told yet, as it is told."""
        ...

    def unmount(self) -> None:
        """Take the mount down, detached where it is busy; nothing where there is none."""
        ...

    def close(self) -> None:
        """End the session of an unmounted file system; reads that wait should have been ended by now."""
        ...
