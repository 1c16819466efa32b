"""The chunk cipher in plain Python, written from its published definition: what the fast one must equal."""

from __future__ import annotations

import struct

DELTA = 0x9E3779B9
MASK = 0xFFFFFFFF


def _mix(words: list[int], key: tuple[int, ...], p: int, total: int) -> int:
    y, z = words[(p + 1) % len(words)], words[p - 1]
    left = ((z >> 5) ^ (y << 2)) + ((y >> 3) ^ (z << 4))
    right = (total ^ y) + (key[(p & 3) ^ (total >> 2 & 3)] ^ z)
    return left ^ right


def encrypt(plain: bytes, key: bytes) -> bytes:
    words = list(struct.unpack(f"<{(len(plain) + 3) // 4}I", plain + b"\0" * (-len(plain) % 4)))
    words.append(len(plain))
    cipher_key = struct.unpack("<4I", key)
    for turn in range(1, 6 + 52 // len(words) + 1):
        for p in range(len(words)):
            words[p] = (words[p] + _mix(words, cipher_key, p, turn * DELTA & MASK)) & MASK
    return struct.pack(f"<{len(words)}I", *words)


def decrypt(data: bytes, key: bytes) -> bytes:
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    cipher_key = struct.unpack("<4I", key)
    for turn in range(6 + 52 // len(words), 0, -1):
        for p in reversed(range(len(words))):
            words[p] = (words[p] - _mix(words, cipher_key, p, turn * DELTA & MASK)) & MASK
    return struct.pack(f"<{len(words)}I", *words)[: words[-1]]
