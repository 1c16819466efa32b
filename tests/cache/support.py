"""Chunks whose bytes follow from their number, so that any process can tell what belongs where."""

from __future__ import annotations

import hashlib

from zerofs.cache.lmdb import ChunkCache


def chunk(number: int, size: int) -> tuple[bytes, bytes]:
    """(name, plain bytes) of chunk `number`."""
    seed = number.to_bytes(4, "big")
    name = b"\x02" + hashlib.blake2b(seed, digest_size=16).digest()
    return name, (hashlib.sha512(seed).digest() * (size // 64 + 1))[:size]


def chunks(count: int, size: int) -> list[tuple[bytes, bytes]]:
    return [chunk(number, size) for number in range(count)]


def contents(cache: ChunkCache, count: int) -> list[tuple[bytes, bytes]]:
    """What the cache holds of the first `count` chunks."""
    with cache.snapshot() as snapshot:
        found = [(name, snapshot.find(name)) for name, _ in chunks(count, 0)]
        return [(name, bytes(view)) for name, view in found if view is not None]
