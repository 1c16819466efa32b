"""Snappy's raw block format, bounded: a block says how long it gets, and that is checked first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zerofs.chunk import _snappy
from zerofs.errors import ChunkCorruptError

if TYPE_CHECKING:
    from typing_extensions import Buffer


def largest_block(size: int) -> int:
    """The most bytes to which a sane compressor turns `size` plain bytes (snappy's own bound)."""
    return 32 + size + size // 6


def decompress(block: Buffer, limit: int) -> bytes:
    """The plain bytes of `block`.  Raises ChunkCorruptError where it is damaged or holds over `limit`."""
    length = _snappy.declared_length(block)
    if length < 0:
        raise ChunkCorruptError("a chunk's compressed bytes do not start with their length")
    if length > limit:
        raise ChunkCorruptError(f"a chunk of {length} bytes stands where at most {limit} belong")
    plain = _snappy.decompress(block)
    if plain is None:
        raise ChunkCorruptError("a chunk does not decompress")
    return plain


def compress(plain: Buffer) -> bytes:
    """`plain` as one block."""
    import cramjam

    return bytes(cramjam.snappy.compress_raw(plain))
