"""The 16 bytes that stand before a payload of the RocksDB generation.

Eight characters of magic, then the CRC-32 (zlib's) of what follows in lower-case hexadecimal: two
to eight digits, ended by a NUL where they are fewer than eight.  What follows that NUL is left over
from the writer's memory and means nothing.  Some stores hold the same payloads without a header.
"""

from __future__ import annotations

import zlib

SIZE = 16
_MAGIC = b"10000000"
_DIGITS = frozenset(b"0123456789abcdef")
_FEWEST_DIGITS = 2


def strip(payload: memoryview) -> memoryview:
    """`payload` without its header, where it has one whose CRC holds; else `payload` itself."""
    if bytes(payload[: len(_MAGIC)]) != _MAGIC:
        return payload
    digits = bytes(payload[len(_MAGIC) : SIZE]).split(b"\0", 1)[0]
    if len(digits) < _FEWEST_DIGITS or not _DIGITS.issuperset(digits):
        return payload
    body = payload[SIZE:]
    return body if zlib.crc32(body) == int(digits, 16) else payload


def add(encrypted: bytes) -> bytes:
    """`encrypted` behind a header of its own."""
    digits = b"%02x" % zlib.crc32(encrypted)
    return _MAGIC + digits.ljust(SIZE - len(_MAGIC), b"\0") + encrypted
