"""An access profile: which chunks of a flist are wanted, in which order and when.

Role: what a `recorder` writes and a later mount replays.  A profile belongs to one flist, by the content
hash of its index; chunks are named by their numbers there.

Layout, little-endian:

=========  ==================================================================================================
header     ``HEADER``: magic, version, flags (0), content hash, recordings merged, entries, bytes of the body
body       zlib: all numbers (4 bytes each, as the difference to the one before), all times (4 bytes, milliseconds
           since the first), all counts (2 bytes: how many of the recordings wanted the chunk)
checksum   XXH3-64 of everything before it
=========  ==================================================================================================

A file comes from anywhere, so each number in it is checked before it is used, and sizes before anything is
allocated.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import xxhash

from zerofs.errors import ProfileError
from zerofs.flist.layout import MAX_PROFILE
from zerofs.flist.load import write_atomically

VERSION = 1
MAGIC = b"ZEROFSPR"
HEADER = struct.Struct("<8sHH32sIII")
MOST_ENTRIES = 1 << 16
MOST_RECORDINGS = 0xFFFF
_CHECKSUM_SIZE = 8
_ENTRY_SIZE = 4 + 4 + 2
_LEVEL = 1  # the file is small; writing it ends a mount


class Entry(NamedTuple):
    """A chunk that was wanted."""

    number: int
    at: int  # milliseconds since the first one, the mean of the recordings that wanted it
    wanted: int = 1  # by so many of the recordings


class Profile(NamedTuple):
    """Entries in the order of their replay."""

    content_hash: bytes  # of the index, 32 bytes
    recordings: int
    entries: tuple[Entry, ...]


def encode(profile: Profile) -> bytes:
    """The bytes of a profile file."""
    numbers, times, counts = (
        _columns(profile.entries) if profile.entries else (array("I"), array("I"), array("H"))
    )
    body = zlib.compress(b"".join(map(_little, (numbers, times, counts))), _LEVEL)
    head = HEADER.pack(
        MAGIC, VERSION, 0, profile.content_hash, profile.recordings, len(profile.entries), len(body)
    )
    whole = head + body
    return whole + xxhash.xxh3_64_intdigest(whole).to_bytes(_CHECKSUM_SIZE, "little")


def decode(data: bytes, origin: str) -> Profile:
    """The profile in `data`.  Raises ProfileError, naming `origin`, for whatever is not one."""
    content_hash, recordings, count, body = _checked(data, origin)
    plain = _inflated(body, count * _ENTRY_SIZE, origin)
    numbers, times, counts = array("I"), array("I"), array("H")
    numbers.frombytes(plain[: 4 * count])
    times.frombytes(plain[4 * count : 8 * count])
    counts.frombytes(plain[8 * count :])
    if sys.byteorder == "big":
        for column in (numbers, times, counts):
            column.byteswap()
    if count and not 0 < min(counts) <= max(counts) <= recordings:
        raise ProfileError(f"{origin}: a count is out of range")
    chunks = [number & 0xFFFFFFFF for number in accumulate(numbers)]
    if len(set(chunks)) != count:
        raise ProfileError(f"{origin}: a chunk stands in it twice")
    return Profile(content_hash, recordings, tuple(map(Entry, chunks, times, counts)))


def read_profile(path: Path) -> Profile:
    """The profile in the file `path`.  Raises ProfileError, or FileNotFoundError."""
    return decode(read_bounded(path), str(path))


def read_bounded(path: Path) -> bytes:
    """The bytes of a file that may be a profile.  Raises ProfileError, or FileNotFoundError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROFILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_PROFILE:
        raise ProfileError(f"{path}: over {MAX_PROFILE} bytes, not a profile")
    return data


def write_profile(profile: Profile, path: Path) -> None:
    """Write `profile` as the file `path`, atomically.  Raises OSError."""
    write_atomically(encode(profile), path)


def check_fits(profile: Profile, content_hash: bytes, chunk_count: int, origin: str) -> None:
    """Raise ProfileError, naming `origin`, where `profile` is not one of this flist."""
    if profile.content_hash != content_hash:
        raise ProfileError(f"{origin}: the profile is of another flist")
    if any(entry.number >= chunk_count for entry in profile.entries):
        raise ProfileError(f"{origin}: it names a chunk that the flist does not have")


def _checked(data: bytes, origin: str) -> tuple[bytes, int, int, bytes]:
    """(content hash, recordings, entries, body) of a whole and undamaged file."""
    if len(data) < HEADER.size + _CHECKSUM_SIZE or not data.startswith(MAGIC):
        raise ProfileError(f"{origin}: not a profile, or cut off")
    _, version, _, content_hash, recordings, count, size = HEADER.unpack_from(data)
    if version != VERSION:
        raise ProfileError(f"{origin}: version {version} of profiles is not known")
    if len(data) != HEADER.size + size + _CHECKSUM_SIZE:
        raise ProfileError(f"{origin}: {len(data)} bytes, it is cut off or has grown")
    if int.from_bytes(data[-_CHECKSUM_SIZE:], "little") != xxhash.xxh3_64_intdigest(data[:-_CHECKSUM_SIZE]):
        raise ProfileError(f"{origin}: the checksum is wrong")
    if not 0 < recordings <= MOST_RECORDINGS:
        raise ProfileError(f"{origin}: {recordings} recordings are out of range")
    if count > MOST_ENTRIES:
        raise ProfileError(f"{origin}: {count} entries are over the bound")
    return content_hash, recordings, count, data[HEADER.size : -_CHECKSUM_SIZE]


def _inflated(body: bytes, size: int, origin: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(body, size + 1)
    except zlib.error as error:
        raise ProfileError(f"{origin}: damaged: {error}") from error
    if len(plain) != size or not inflater.eof or inflater.unused_data:
        raise ProfileError(f"{origin}: the entries do not have the size that it says")
    return plain


def _columns(entries: Sequence[Entry]) -> tuple[array[int], array[int], array[int]]:
    numbers, times, counts = zip(*entries, strict=True)
    before = (0, *numbers[:-1])
    differences = array(
        "I", [number - last & 0xFFFFFFFF for number, last in zip(numbers, before, strict=True)]
    )
    return differences, array("I", [min(at, 0xFFFFFFFF) for at in times]), array("H", counts)


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
