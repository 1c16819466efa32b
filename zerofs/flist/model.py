"""What every flist generation says, in one set of records.

Readers yield these, writers and the index compiler take them; nothing else knows a format.  Sizes are bytes,
times are whole seconds since 1970, modes are permission bits only (07777): the type is the ``kind``.
"""

from __future__ import annotations

import enum
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

BLOCK_UNIT = 4096  # File.blockSize counts these
CHUNK_SIZE = 512 * 1024  # every writer so far, ours too
DIRECTORY_SIZE = 4096  # what a directory reports as its size


class Kind(enum.IntEnum):
    """The type of an entry; the value is the type's part of ``st_mode``."""

    DIR = stat.S_IFDIR
    FILE = stat.S_IFREG
    LINK = stat.S_IFLNK
    CHARDEV = stat.S_IFCHR
    BLOCK = stat.S_IFBLK
    FIFO = stat.S_IFIFO
    SOCKET = stat.S_IFSOCK

    @property
    def noun(self) -> str:
        """What people call it."""
        return _NOUNS[self]


_NOUNS = {
    Kind.DIR: "directory",
    Kind.FILE: "file",
    Kind.LINK: "symbolic link",
    Kind.CHARDEV: "character device",
    Kind.BLOCK: "block device",
    Kind.FIFO: "FIFO",
    Kind.SOCKET: "socket",
}


class ChunkRef(NamedTuple):
    """One chunk of a file, as it stands in the flist (text as ASCII bytes, binary as it is)."""

    id: bytes  # what a store is asked for
    key: bytes  # deciphering key = hash of the plain bytes; its length names the codec


class Attributes(NamedTuple):
    """Owner, permissions and times of an entry or a directory."""

    mode: int  # 07777 bits only
    uid: int
    gid: int
    mtime: int
    ctime: int


class Entry(NamedTuple):
    """One name in a directory.

    ``attributes`` of a DIR entry are never used: the child's own :class:`Directory` record has them.
    """

    name: bytes
    kind: Kind
    attributes: Attributes
    size: int = 0  # bytes; of a link the length of its target
    key: bytes = b""  # DIR: what :meth:`FlistReader.directory` is asked for
    target: bytes = b""  # LINK
    device: tuple[int, int] = (0, 0)  # CHARDEV, BLOCK: major, minor
    block_size: int = CHUNK_SIZE  # FILE: plain bytes of every chunk but the last
    chunks: Sequence[ChunkRef] = ()  # FILE: may hold less than ``size``, never more


class Directory(NamedTuple):
    """One directory record."""

    attributes: Attributes
    entries: Sequence[Entry]


class Route(NamedTuple):
    """A route that stands in the metadata itself (fungi): first byte of the id, inclusive."""

    start: int
    end: int
    url: str


class FlistReader(Protocol):
    """Reads one flist's database.  Not thread-safe; close it."""

    format: str  # "rocksdb", "sqlite" or "fl"
    names: dict[str, int]  # owners resolved on this host: "u:name" or "g:name" → id

    def root(self) -> bytes:
        """The key of the root directory."""
        ...

    def directory(self, key: bytes) -> Directory | None:
        """The record under `key`, or None where there is none.

        Raises FlistCorruptError for a record that cannot be read.
        """
        ...

    def routes(self) -> Sequence[Route]:
        """Routes held by the metadata itself; empty for all but fungi."""
        ...

    def close(self) -> None: ...


class FlistWriter(Protocol):
    """Writes one flist.  Parents come before children; the root's path is empty.

    `key` of DIR entries is ignored: a writer computes keys from paths.
    """

    def add(self, path: bytes, directory: Directory) -> None: ...

    def finish(self, router: bytes | None = None, routes: Iterable[Route] = ()) -> None:
        """Write the flist to its destination, atomically; `router` becomes ``router.yaml``."""
        ...

    def abort(self) -> None:
        """Throw away what was written so far."""
        ...


class Chunk(NamedTuple):
    """A distinct chunk of an index."""

    id: bytes
    key: bytes
    size: int  # plain bytes that a file expects of it (the most, where files differ)


Tree = Iterator[tuple[bytes, Directory]]  # (path, directory), parents first
