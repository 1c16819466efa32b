"""The compiled index of a flist: flat tables in one file that mounts map and share.

Role: metadata is compiled once (`zerofs.flist.compile`) and from then on read from here, by arithmetic.
The file is written under a temporary name and renamed, so what has the final name is whole; it is
checked all the same when it is mapped: header, checksum, and every number in its tables
(`zerofs._fast.IndexMap`).

Layout, little-endian, sections aligned to 8 bytes:

=========  ==========================================================================================
header     256 bytes: ``HEADER``, zeros, XXH3-64 of the 248 bytes before it
nodes      64 bytes a node (``NODE``); row 0 is the root.  ``first``/``count``: a directory's children, a
           file's refs, a link's target in names.  ``count`` of a directory without a record is MISSING
children   16 bytes a name (``CHILD``), a directory's names together, sorted by their bytes
names      the bytes of names and link targets (and of ids and keys of unusual length)
refs       4 bytes a chunk of a file, in order: its chunk number
chunks     72 bytes a distinct chunk (``CHUNK``): id, key, their forms, the plain bytes expected
=========  ==========================================================================================

The **content hash** is BLAKE2b-256 over the five sections as layout 1 has them.  They follow from the
records alone (breadth first, names sorted), so equal trees have equal hashes whatever container or
generation they came from.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from zerofs._fast import GuardedMap, IndexMap
from zerofs.errors import FlistCorruptError
from zerofs.flist.model import Attributes, Chunk, Kind

VERSION = 1
MAGIC = b"ZEROFSIX"
HEADER_SIZE = 256
HEADER = struct.Struct("<8sIIQ32sQ10QQQ")  # magic, version, header size, file size, content hash,
# XXH3-64 of the sections, (offset, count) of the five sections, bytes of all files, flags (0)
CHECKSUM = struct.Struct("<Q")
NODE = struct.Struct("<QqqQIIIIIIII")  # size mtime ctime first count mode uid gid nlink rdev block parent
CHILD = struct.Struct("<IIHHI")  # name node length type reserved
CHUNK = struct.Struct("<32s32sBBHI")  # id key id-form key-form reserved size
MISSING = 0xFFFFFFFF
FORM_HEX = 64
FORM_NAMES = 255


class Tables(NamedTuple):
    """The five sections, as bytes."""

    nodes: bytes | bytearray
    children: bytes | bytearray
    names: bytes | bytearray
    refs: bytes | bytearray
    chunks: bytes | bytearray

    def content_hash(self) -> bytes:
        """BLAKE2b-256 that names this content, 32 bytes."""
        import hashlib

        digest = hashlib.blake2b(b"zerofs content 1", digest_size=32)
        for section in self:
            digest.update(len(section).to_bytes(8, "little"))
            digest.update(section)
        return digest.digest()


class Node(NamedTuple):
    """One row of the table of nodes.  Sizes are bytes; ``rdev`` is encoded as the kernel does."""

    mode: int  # full st_mode
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    nlink: int
    rdev: int
    block_size: int
    parent: int
    first: int
    length: int  # the row's count; MISSING for a directory without a record

    @property
    def kind(self) -> Kind:
        return Kind(self.mode & 0o170000)

    @property
    def attributes(self) -> Attributes:
        return Attributes(self.mode & 0o7777, self.uid, self.gid, self.mtime, self.ctime)

    @property
    def device(self) -> tuple[int, int]:
        """(major, minor)."""
        return os.major(self.rdev), os.minor(self.rdev)


class Index:
    """A mapped index.  Read-only and immutable, so any thread may use it; `close` unmaps it."""

    descriptor: int | None = None  # of a file that has no name, as long as the index is there

    def __init__(self, mapped: mmap.mmap | bytes, origin: str) -> None:
        """Check `mapped`, the bytes of an index file; FlistCorruptError names `origin` and what is wrong."""
        self._mapped = mapped
        self._guard = _guard(mapped)
        header = bytes(mapped[:HEADER_SIZE])
        if len(header) < HEADER_SIZE or header[:8] != MAGIC:
            raise _damaged(origin, "no index header")
        (stored,) = CHECKSUM.unpack_from(header, HEADER_SIZE - CHECKSUM.size)
        if stored != xxhash.xxh3_64_intdigest(header[: HEADER_SIZE - CHECKSUM.size]):
            raise _damaged(origin, "the header's checksum is wrong")
        fields = HEADER.unpack_from(header)
        _, version, header_size, file_size, self.content_hash, checksum, *rest = fields
        sections = list(zip(rest[0:10:2], rest[1:10:2], strict=True))
        self.total_size: int = rest[10]  # bytes of all files
        if version != VERSION or header_size != HEADER_SIZE:
            raise _damaged(origin, f"layout {version} is not known")
        if file_size != len(mapped):
            raise _damaged(origin, f"{len(mapped)} bytes instead of {file_size}")
        with memoryview(mapped) as whole, whole[HEADER_SIZE:] as body:
            if xxhash.xxh3_64_intdigest(body) != checksum:
                raise _damaged(origin, "the checksum is wrong")
        try:
            self.map = IndexMap(mapped, sections, self._guard)
        except ValueError as error:
            raise _damaged(origin, str(error)) from error
        if self._guard is not None and self._guard.faults:
            raise _damaged(origin, "the disk cannot give a page of it")
        self.lookup = self.map.lookup
        self.children = self.map.children
        self.target = self.map.target
        self.refs = self.map.refs

    @classmethod
    def open(cls, path: Path) -> Index:
        """Map the index file at `path`.  Raises FileNotFoundError, or FlistCorruptError if it is damaged."""
        with path.open("rb") as file:
            return cls._map(file.fileno(), str(path))

    @classmethod
    def anonymous(cls, tables: Tables) -> Index:
        """An index that only this process (and who inherits its descriptors) sees: nothing is left behind."""
        with _memory_file() as descriptor:
            _write(descriptor, tables, tables.content_hash())
            return cls.inherited(os.dup(descriptor))

    @classmethod
    def inherited(cls, descriptor: int) -> Index:
        """The index in the file `descriptor`, which now belongs to it.  Raises FlistCorruptError."""
        index = cls._map(descriptor, "index in memory")
        index.descriptor = descriptor
        weakref.finalize(index, os.close, descriptor)
        return index

    @classmethod
    def _map(cls, descriptor: int, origin: str) -> Index:
        if os.fstat(descriptor).st_size < HEADER_SIZE:
            raise _damaged(origin, "shorter than its header")
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE  # all of it is looked at at once
        return cls(mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ), origin)

    def __len__(self) -> int:
        return self.map.node_count

    def node(self, row: int) -> Node:
        return Node(*self.map.node(row))

    def chunk(self, number: int) -> Chunk:
        return Chunk(*self.map.chunk(number))

    @property
    def chunk_count(self) -> int:
        """How many distinct chunks there are."""
        return self.map.chunk_count

    def resolve(self, path: bytes) -> int | None:
        """The row at `path`, relative to the root with or without slashes at its ends; links not followed."""
        row: int | None = 0
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if row is None:
                return None
            row = self.node(row).parent if name == b".." else self.lookup(row, name)
        return row

    def walk(self, row: int = 0, path: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """(path, row) of `row` and everything below it, depth first, names in the order of their bytes."""
        stack = [(path, row)]
        while stack:
            path, row = stack.pop()
            yield path, row
            prefix = path + b"/" if path else b""
            stack.extend((prefix + name, child) for name, child in reversed(self.children(row)))

    def sections(self) -> Tables:
        """Copies of the five tables."""
        fields = HEADER.unpack_from(self._mapped)[6:16]
        widths = (NODE.size, CHILD.size, 1, 4, CHUNK.size)
        spans = zip(fields[0::2], fields[1::2], widths, strict=True)
        tables = Tables(*(bytes(self._mapped[at : at + count * width]) for at, count, width in spans))
        if self._guard is not None and not self._guard.whole:
            raise _damaged("the compiled index", "the disk cannot give a page of it")
        return tables


def _guard(mapped: mmap.mmap | bytes) -> GuardedMap | None:
    """Against pages that the disk cannot give; None for bytes in memory, and where the kernel cannot help."""
    if not isinstance(mapped, mmap.mmap):
        return None
    try:
        return GuardedMap(mapped)
    except OSError:
        return None


def write_index(tables: Tables, path: Path, content_hash: bytes | None = None) -> None:
    """Write `tables` as an index file at `path`, atomically; the directory must exist.

    Their content hash is computed unless the caller has done so.
    """
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix=".index-", dir=path.parent)
    try:
        try:
            _write(descriptor, tables, content_hash or tables.content_hash())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        Path(name).rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _write(descriptor: int, tables: Tables, content_hash: bytes) -> None:
    from zerofs.flist._tables import total_size

    widths = (NODE.size, CHILD.size, 1, 4, CHUNK.size)
    pieces: list[bytes | bytearray] = []
    sections: list[int] = []
    at = HEADER_SIZE
    for section, width in zip(tables, widths, strict=True):
        sections += (at, len(section) // width)
        padding = -len(section) % 8
        pieces += (section, bytes(padding))
        at += len(section) + padding
    checksum = xxhash.xxh3_64()
    for piece in pieces:
        checksum.update(piece)
    header = HEADER.pack(
        *(MAGIC, VERSION, HEADER_SIZE, at, content_hash, checksum.intdigest()),
        *(*sections, total_size(tables.nodes), 0),
    ).ljust(HEADER_SIZE - CHECKSUM.size, b"\0")
    header += CHECKSUM.pack(xxhash.xxh3_64_intdigest(header))
    with open(descriptor, "wb", closefd=False) as file:
        file.write(header)
        for piece in pieces:
            file.write(piece)


@contextlib.contextmanager
def _memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("zerofs-index", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _damaged(origin: str, fault: str) -> FlistCorruptError:
    return FlistCorruptError(f"{origin}: {fault}", hint="remove it; it is compiled anew at the next mount")
