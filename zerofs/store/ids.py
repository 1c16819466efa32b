"""Chunk ids as text: what ranges compare, what files are named and what messages show.

The RocksDB generation's ids are hex digits in ASCII, the later ones' are 16 or 32 raw bytes.
Both are asked of a store as they stand; only here does it matter which is which.
"""

from __future__ import annotations

import re

_NAME = re.compile(rb"[0-9A-Za-z_-][0-9A-Za-z._-]*\Z")
_BINARY_SIZES = (16, 32)  # BLAKE2b-128 and BLAKE2b-256


def is_text(chunk_id: bytes) -> bool:
    """Whether `chunk_id` stands for itself as text: a plain name of no binary hash's length."""
    return len(chunk_id) not in _BINARY_SIZES and _NAME.match(chunk_id) is not None


def id_text(chunk_id: bytes) -> str:
    """The id as a message shows it and a directory names it: text as it stands, bytes in hex.

    The result holds only ``[0-9A-Za-z._-]`` and never begins with a dot, so it cannot climb out of a
    directory.
    """
    return chunk_id.decode("ascii") if is_text(chunk_id) else chunk_id.hex()


def id_digits(chunk_id: bytes) -> str:
    """The id as ranges compare it: `id_text` in lower case."""
    return id_text(chunk_id).lower()
