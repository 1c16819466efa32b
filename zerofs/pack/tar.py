"""A tar as the source of a flist: a file or a stream, plain, gzip, bzip2 or xz.

Role: :class:`TarSource` reads the archive once, front to back, with what extraction as root would leave
behind as its result: the last member of a name wins, owners are the numbers in the archive, a hard link
is its target.  Nothing is written to disk, and no name leads out of the tree.

An archive that ends early is refused: cut between two members it would otherwise pass for a smaller
one.  One thread, no locks.
"""

from __future__ import annotations

import io
import lzma
import math
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from tarfile import ReadError
from typing import BinaryIO, Self, cast

from zerofs.errors import SourceError
from zerofs.flist.model import CHUNK_SIZE, DIRECTORY_SIZE, Kind
from zerofs.flist.tarmember import Member
from zerofs.pack.archive import ArchiveTree
from zerofs.pack.losses import Loss, Losses
from zerofs.pack.pipeline import Pipeline
from zerofs.pack.progress import Progress
from zerofs.pack.tree import Node

_BUFFER = 1 << 20  # bytes asked of the stream at a time
_MOST_HEADER = (
    4 << 20
)  # bytes of what precedes a member: names, attributes, maps of holes, and what is read ahead
_MOST_DIGITS = 20  # of a time, before its point
_VOLUME_HEADER = b"V"  # GNU: a label, no member
_LINK_MODE = 0o777  # of every symbolic link that Linux makes
MAX_MAJOR, MAX_MINOR = 2**12 - 1, 2**20 - 1  # of the kernel's device numbers
_KINDS = {
    tarfile.DIRTYPE: Kind.DIR,
    tarfile.SYMTYPE: Kind.LINK,
    tarfile.CHRTYPE: Kind.CHARDEV,
    tarfile.BLKTYPE: Kind.BLOCK,
    tarfile.FIFOTYPE: Kind.FIFO,
}
_XATTR_PREFIXES = ("SCHILY.xattr.", "LIBARCHIVE.xattr.")
_ACL_HEADERS = ("SCHILY.acl.access", "SCHILY.acl.default")


class TarSource:
    """The tree in the archive that `stream` delivers; `name` stands for it in messages."""

    def __init__(self, stream: BinaryIO, name: str, losses: Losses) -> None:
        self._stream = stream
        self._name = name
        self._losses = losses

    def read(self, pipeline: Pipeline, progress: Progress) -> Node:
        """The tree with all attributes; the content of its files goes to `pipeline`.  Raises SourceError."""
        tree = ArchiveTree(self._name)
        with self._explained():
            stream = _decompressed(self._stream, self._name)
            capped = _Capped(stream)
            with tarfile.open(  # type: ignore[call-overload]
                fileobj=capped,
                mode="r|",
                bufsize=_BUFFER,
                tarinfo=_Member,
                encoding="utf-8",
                errors="surrogateescape",
            ) as archive:
                while (member := archive.next()) is not None:
                    capped.left = None
                    self._add(tree, archive, member, pipeline, progress)
                    capped.left = _MOST_HEADER
                    archive.members.clear()  # it would keep every one
            while stream.read(_BUFFER):
                pass  # checks the compressed stream's checksum, and lets whoever feeds a pipe finish
        return tree.root

    def _add(
        self,
        tree: ArchiveTree,
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
        pipeline: Pipeline,
        progress: Progress,
    ) -> None:
        name = _bytes(member.name)
        if member.type == _VOLUME_HEADER:
            return
        if member.islnk():
            tree.link(name, _bytes(member.linkname))
            self._losses.add(Loss.HARD_LINK, name)
            return
        node = self._node(member, name)
        tree.put(name, node)
        if node.kind is Kind.FILE:
            self._read_file(archive, member, node, pipeline, progress)

    def _node(self, member: tarfile.TarInfo, name: bytes) -> Node:
        kind = Kind.FILE if member.isreg() else _KINDS.get(member.type)
        if kind is None:
            shown = member.type.decode("latin-1")
            raise SourceError(f"{self._name}: {member.name}: a member of type {shown!r} has no meaning")
        target = _bytes(member.linkname) if kind is Kind.LINK else b""
        size = {Kind.DIR: DIRECTORY_SIZE, Kind.FILE: member.size, Kind.LINK: len(target)}.get(kind, 0)
        if not (0 <= member.devmajor <= MAX_MAJOR and 0 <= member.devminor <= MAX_MINOR):
            raise SourceError(
                f"{self._name}: {member.name}: there is no device {member.devmajor},{member.devminor}"
            )
        device = (member.devmajor, member.devminor) if kind in (Kind.CHARDEV, Kind.BLOCK) else (0, 0)
        mtime, subsecond = _time(member.pax_headers.get("mtime", str(member.mtime)))
        ctime = _time(member.pax_headers["ctime"])[0] if "ctime" in member.pax_headers else mtime
        losses = self._losses
        losses.check_owner(name, member.uid, member.gid)
        losses.check_times(name, mtime, ctime, subsecond=subsecond)
        losses.check_text(name, name.rpartition(b"/")[2], target)
        losses.check_xattrs(name, _xattrs(member))
        if member.issparse():
            losses.add(Loss.SPARSE, name)
        mode = _LINK_MODE if kind is Kind.LINK else member.mode  # archivers write what they like there
        attributes = losses.attributes(mode, member.uid, member.gid, mtime, ctime)
        return Node(kind, attributes, size=size, target=target, device=device)

    def _read_file(
        self,
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
        node: Node,
        pipeline: Pipeline,
        progress: Progress,
    ) -> None:
        content = cast(io.BufferedReader, archive.extractfile(member))
        size = 0
        while plain := content.read(CHUNK_SIZE):
            pipeline.add(node.prints, plain)
            size += len(plain)
            progress.advance(size=len(plain))
        if size != node.size:
            raise SourceError(f"{self._name}: {member.name}: {size} bytes where {node.size} are promised")
        progress.advance(files=1)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, RecursionError) as error:
            raise SourceError(f"{self._name}: cannot be read as a tar: {error}") from error
        except OSError as error:
            raise SourceError(f"{self._name}: {error.strerror or error}") from error


class _Member(Member):
    """A member's header; a damaged or missing one is an error where tarfile sees the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _CUT_SHORT as error:
            raise ReadError(f"it is damaged or was cut short ({error})") from error


# Private to tarfile's documentation only: they are how it tells these cases from a proper end.
_CUT_SHORT = (
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
)


def _decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """`stream` without its compression, told by its first bytes; all of a file of several members."""
    head = b""
    while len(head) < 6 and (more := stream.read(6 - len(head))):
        head += more
    whole = io.BufferedReader(_Rejoined(head, stream), _BUFFER)
    if head.startswith(b"\x1f\x8b"):
        import gzip

        return cast(BinaryIO, gzip.GzipFile(fileobj=whole))
    if head.startswith(b"BZh"):
        import bz2

        return cast(BinaryIO, bz2.BZ2File(whole))
    if head == b"\xfd7zXZ\0":
        return cast(BinaryIO, lzma.LZMAFile(whole))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        raise SourceError(
            f"{name}: zstd is not read here", hint="unpack it on the way: zstd -dc FILE | zerofs pack … -"
        )
    return cast(BinaryIO, whole)


class _Capped:
    """A stream that gives out only so much before the next member: tarfile holds all of its headers in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left: int | None = _MOST_HEADER  # None: a member's content is read

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise tarfile.ReadError(f"the headers of a member are over {_MOST_HEADER} bytes")
        return data


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _xattrs(member: tarfile.TarInfo) -> Iterator[str]:
    """The names of a member's extended attributes, as the kernel has them."""
    for header in member.pax_headers:
        for prefix in _XATTR_PREFIXES:
            if header.startswith(prefix):
                yield header.removeprefix(prefix)
        if header in _ACL_HEADERS:
            yield "system.posix_acl_" + header.rpartition(".")[2]
        if header == "RHT.security.selinux":
            yield "security.selinux"


def _time(text: str) -> tuple[int, bool]:
    """Whole seconds since 1970, and whether there was more; exact, as binary fractions are not."""
    try:
        exact = Decimal(text)
        if exact.is_finite() and exact.adjusted() >= _MOST_DIGITS:
            raise OverflowError  # the whole of 1e999999999 would not fit into memory
        seconds = math.floor(exact)
    except (InvalidOperation, ValueError, OverflowError):
        raise SourceError(f"a member's time is {text!r}") from None
    return seconds, exact != seconds


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
