"""Snappy's raw block format, bounded: a block says how long it gets, and that is checked first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zerofs.errors import ChunkCorruptError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LONGEST_VARINT = 5  # bytes: lengths are 32-bit


def largest_block(size: int) -> int:
    """The most bytes to which a sane compressor turns `size` plain bytes (snappy's own bound)."""
    return 32 + size + size // 6


def declared_length(block: bytes | memoryview) -> int:
    """The plain length that stands at the start of `block`.  Raises ChunkCorruptError."""
    length = 0
    for position, byte in enumerate(block[:_LONGEST_VARINT]):
        length |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return length
    raise ChunkCorruptError("a chunk's compressed bytes do not start with their length")


def decompress(block: Buffer, limit: int) -> bytes:
    """The plain bytes of `block`.  Raises ChunkCorruptError where it is damaged or holds over `limit`."""
    view = memoryview(block)
    length = declared_length(view)
    if length > limit:
        raise ChunkCorruptError(f"a chunk of {length} bytes stands where at most {limit} belong")
    import cramjam

    try:
        plain = bytes(cramjam.snappy.decompress_raw(view))
    except cramjam.DecompressionError as error:
        raise ChunkCorruptError("a chunk does not decompress") from error
    if len(plain) != length:
        raise ChunkCorruptError("a chunk decompresses to another length than it declares")
    return plain


def compress(plain: Buffer) -> bytes:
    """`plain` as one block."""
    import cramjam

    return bytes(cramjam.snappy.compress_raw(plain))
