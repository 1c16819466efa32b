"""One cached chunk as it lies in the cache: a header, then the plain bytes.

The header holds two checksums.  The first ties the header to the chunk's name, the second ties the
bytes to it: where only the second fails, bytes rotted and the entry can be dropped; where the first
fails, what lies under this name belongs to something else, so the tree that led here is wrong and
must not be used for dropping anything.  XXH3 guards against accidents, not against an attacker: who
may write to the cache is a matter of the directory's mode.

Packed by `zerofs._fast.pack_entries`, which knows the layout as well.  Nothing in an entry ever changes: its place in
the order is not here.
"""

from __future__ import annotations

import struct

import xxhash

LAYOUT = b"2"  # change with anything below, or with the databases in `datafile`

_HEADER = struct.Struct("<QQQ")  # header's checksum, bytes' checksum, length
_LENGTH = struct.Struct("<Q")
HEADER_SIZE = _HEADER.size
_SHORT = 4096  # bytes; to copy those takes less than two calls more


class DamagedEntryError(Exception):
    """The bytes are not those that were stored."""


class ForeignEntryError(Exception):
    """What lies there was not stored under this name."""


def unpack(name: bytes, value: memoryview, *, verify: bool) -> memoryview:
    """The plain bytes within `value`, without a copy; `verify` reads them all once.

    Raises ForeignEntryError or DamagedEntryError.
    """
    if len(value) < HEADER_SIZE:
        raise ForeignEntryError
    header_check, bytes_check, length = _HEADER.unpack_from(value)
    tie = _tie(name, length)
    if len(value) != HEADER_SIZE + length or header_check != xxhash.xxh3_64_intdigest(tie):
        raise ForeignEntryError
    plain = value[HEADER_SIZE:]
    if verify and bytes_check != _check_bytes(tie, plain):
        raise DamagedEntryError
    return plain


def _tie(name: bytes, length: int) -> bytes:
    """What ties an entry to its name: both checksums begin with it."""
    return name + _LENGTH.pack(length)


def _check_bytes(tie: bytes, plain: bytes | memoryview) -> int:
    if len(plain) <= _SHORT:
        return xxhash.xxh3_64_intdigest(tie + plain)
    hasher = xxhash.xxh3_64(tie)
    hasher.update(plain)
    return hasher.intdigest()
