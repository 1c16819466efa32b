"""Takes the database files out of a flist's tar, trusting nothing that it says.

Role: archives come from outside.  The archive is first decompressed into an unlinked file, never beyond the
bound, then its members are checked one by one; only the files of a database, router.yaml and an access profile are
written, under their own plain names, so nothing can land outside the target.  Used while a flist is opened,
never while it is read.  Stateless.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import mmap
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from zerofs.errors import BackendError, FlistCorruptError, FlistTooLargeError, FlistUnsafeError
from zerofs.flist.layout import (
    MAX_PROFILE,
    MAX_ROUTER,
    PROFILE_NAME,
    ROUTER_NAME,
    Container,
    is_database_file,
)
from zerofs.flist.tarmember import Member

_STEP = 256 << 10  # bytes read or written at once
_MAX_HEADER = 1 << 20  # bytes of what precedes a member: names and attributes, never data
_XZ_MEMORY = 256 << 20  # bytes; the dictionary is as large as the archive says


def unpack(
    file: BinaryIO, container: Container, target: Path, *, subject: str, max_size: int, max_members: int
) -> None:
    """Unpack the tar in `file`, compressed as `container` says, into the directory `target`.

    `max_size` bounds the bytes of the decompressed archive.  Raises FlistUnsafeError for a member that is
    absolute, climbs, or is neither a file nor a directory, FlistTooLargeError beyond a bound,
    FlistCorruptError for a damaged archive and BackendError where `target` takes no more.
    """
    try:
        with tempfile.TemporaryFile(dir=target) as plain:
            source: IO[bytes] = file
            if container is not Container.TAR:
                _copy_bounded(_decompressed(file, container, max_size, subject), plain, max_size, subject)
                source = plain
            elif os.fstat(file.fileno()).st_size > max_size:
                raise _too_large(subject, max_size)
            _unpack_members(source, target, subject, max_members)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise FlistCorruptError(f"{subject}: the archive is damaged: {error}") from error
    except OSError as error:
        raise BackendError(f"cannot unpack {subject}: {error.strerror or error}") from error


def _unpack_members(source: IO[bytes], target: Path, subject: str, max_members: int) -> None:
    source.seek(0)
    count = 0
    capped = _Capped(source, subject)
    with tarfile.open(fileobj=capped, mode="r:", tarinfo=Member) as tar:  # type: ignore[call-overload]
        for member in tar:
            count += 1
            if count > max_members:
                raise FlistTooLargeError(f"{subject}: more than {max_members} members")
            name = _checked_name(member, subject)
            if name == ROUTER_NAME and member.size > MAX_ROUTER:
                raise FlistTooLargeError(f"{subject}: {ROUTER_NAME} of {member.size} bytes")
            if name == ROUTER_NAME or is_database_file(name) or _is_profile(name, member):
                capped.allow(member.size)
                _extract(tar, member, target / name)
            capped.allow(0)
        _check_end(source, tar.offset, subject)


def _is_profile(name: str, member: tarfile.TarInfo) -> bool:
    """Whether it is an access profile; one that is too large to be true is passed over."""
    return name == PROFILE_NAME and member.size <= MAX_PROFILE


def _checked_name(member: tarfile.TarInfo, subject: str) -> str:
    """The path of a member without its dots, empty for one that is not to be unpacked."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.isdir() and not parts:  # the root, spelt "./", ".", "/" or ""
        return ""
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise FlistUnsafeError(f"{subject}: the member {member.name!r} leaves the archive")
    if member.isdir():
        return ""
    if member.size < 0:
        raise FlistCorruptError(f"{subject}: the member {member.name!r} has a negative size")
    if not member.isreg() or member.issparse():
        raise FlistUnsafeError(
            f"{subject}: the member {member.name!r} is neither a plain file nor a directory"
        )
    return "/".join(parts)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    data = tar.extractfile(member)
    if data is None:
        raise tarfile.ReadError(f"no data of {member.name!r}")
    with data, target.open("wb") as out:
        while step := data.read(_STEP):
            out.write(step)


def _check_end(source: IO[bytes], offset: int, subject: str) -> None:
    """An archive ends with its bytes or with zeros; tarfile takes a damaged header for an end as well."""
    source.seek(offset)
    if source.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise FlistCorruptError(f"{subject}: the archive is damaged at byte {offset}")


class _Capped:
    """A file for tarfile that gives out only so much, which keeps hostile headers out of memory.

    Extended headers, sparse maps and chains of them are read before a member is handed over; they share one
    allowance.
    """

    def __init__(self, file: IO[bytes], subject: str) -> None:
        self._file = file
        self._subject = subject
        self._left = _MAX_HEADER
        self.seek, self.tell = file.seek, file.tell

    def allow(self, size: int) -> None:
        """Give out `size` bytes of data and the headers of the next member from now on."""
        self._left = size + _MAX_HEADER

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise FlistTooLargeError(f"{self._subject}: a member's headers are over {_MAX_HEADER} bytes")
        return self._file.read(size)


# -- decompression -------------------------------------------------------------------------


def _copy_bounded(pieces: Iterator[bytes], plain: IO[bytes], max_size: int, subject: str) -> None:
    size = 0
    for piece in _reporting_damage(pieces, subject):
        size += len(piece)
        if size > max_size:
            raise _too_large(subject, max_size)
        plain.write(piece)


def _reporting_damage(pieces: Iterator[bytes], subject: str) -> Iterator[bytes]:
    try:
        yield from pieces
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise FlistCorruptError(f"{subject}: the compressed data is damaged or cut off: {error}") from error
    except OSError as error:
        if error.errno is not None:  # the disk's, not the decompressor's
            raise
        raise FlistCorruptError(f"{subject}: the compressed data is damaged: {error}") from error


def _decompressed(file: BinaryIO, container: Container, max_size: int, subject: str) -> Iterator[bytes]:
    file.seek(0)
    if container is Container.ZSTD:
        return _zstd(file, max_size, subject)
    if container is Container.XZ:
        return _streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
    if container is Container.BZIP2:
        return _streams(file, bz2.BZ2Decompressor)
    return iter(partial(gzip.GzipFile(fileobj=file).read, _STEP), b"")


def _streams(
    file: BinaryIO, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    """The bytes of one compressed stream after another, zeros between them being padding."""
    decompressor = new()
    data = b""
    while True:
        if decompressor.eof:
            data = (decompressor.unused_data or file.read(_STEP)).lstrip(b"\0")
            if not data:
                return
            decompressor = new()
        elif decompressor.needs_input:
            data = file.read(_STEP)
            if not data:
                raise EOFError("it ends early")
        yield decompressor.decompress(data, _STEP)
        data = b""


def _zstd(file: BinaryIO, max_size: int, subject: str) -> Iterator[bytes]:
    """The decompressor fills a buffer of fixed size, of which only the pages written are ever there."""
    import cramjam

    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as packed, mmap.mmap(-1, max_size) as plain:
        try:
            size = cramjam.zstd.decompress_into(packed, plain)
        except cramjam.DecompressionError as error:
            if "whole buffer" in str(error):
                raise _too_large(subject, max_size) from error
            raise FlistCorruptError(f"{subject}: the compressed data is damaged: {error}") from error
        yield from (plain[start : min(start + _STEP, size)] for start in range(0, size, _STEP))


def _too_large(subject: str, max_size: int) -> FlistTooLargeError:
    return FlistTooLargeError(f"{subject}: more than {max_size} bytes when unpacked")
