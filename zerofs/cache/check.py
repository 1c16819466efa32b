"""Proving a cache: every entry against its checksum, and against the hash that its name is.

Place: behind `zerofs fsck`.  Works beside mounts: it reads each entry in a snapshot of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from zerofs.chunk.codec import Codec, canonical, key_of

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache


class Checked(NamedTuple):
    """What became of all entries."""

    entries: int
    size: int  # plain bytes
    unverifiable: int  # whose name is no hash: only their checksum was looked at
    damaged: list[bytes]  # names


def check(cache: ChunkCache, *, repair: bool, advance: Callable[[int], None]) -> Checked:
    """Read all of it; `repair` drops what fails.  `advance` is told the plain bytes that were looked at."""
    entries = size = unverifiable = 0
    damaged: list[bytes] = []
    for name, length in cache.entries():
        sound = _is_sound(cache, name)
        if sound is None:
            continue  # evicted meanwhile
        entries += 1
        size += length
        unverifiable += name[0] == Codec.UNKNOWN
        if not sound:
            damaged.append(name)
            if repair:
                cache.drop_many([name])
        advance(length)
    return Checked(entries, size, unverifiable, damaged)


def _is_sound(cache: ChunkCache, name: bytes) -> bool | None:
    """Whether the entry is what its name says; None where there is none."""
    with cache.snapshot() as snapshot:
        if not snapshot.holds(name):
            return None
        plain = snapshot.read(name)
    if plain is None:
        return False
    try:
        codec = Codec(name[0])
    except ValueError:
        return False
    if codec is Codec.UNKNOWN:
        return True
    return key_of(codec, plain) == canonical(codec, name[1:])
