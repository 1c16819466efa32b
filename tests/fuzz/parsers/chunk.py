"""Payloads of chunks: an error, or bytes that hash to the key.  Blocks are encrypted, too, so that they get further."""

from __future__ import annotations

import contextlib
import hashlib
import zlib

import cramjam

from zerofs._fast import xxtea_decrypt, xxtea_encrypt
from zerofs.chunk import snappy
from zerofs.chunk._snappy import declared_length
from zerofs.chunk.batch import Request, decode_many
from zerofs.chunk.codec import Codec, aes_gcm_encrypt, canonical, codec_of, decode, encode, key_of
from zerofs.errors import ChunkCorruptError, ChunkError

SIZES = (0, 1, 5, 4096, 1 << 20)


def target(data: bytes) -> None:
    first, data = data[:1].ljust(1, b"\0")[0], data[1:]
    size = SIZES[first % len(SIZES)]
    digest = hashlib.blake2b(data).digest()
    keys = [
        digest[:16],
        digest[:32],
        digest[:32].hex().encode(),
        digest[:32].hex().upper().encode(),
        digest[:20],
        b"",
    ]
    key = keys[(first >> 3) % len(keys)]
    payloads = [data, *_enclosed(key, data)]
    plains = [_decode(key, payload, size) for payload in payloads]
    together = decode_many([Request(key, payload, size) for payload in payloads])
    assert [plain if isinstance(plain, bytes) else None for plain in together] == plains
    _check_cipher(data)
    _check_snappy(data, size)


def _enclosed(key: bytes, block: bytes) -> list[bytes]:
    """`block` as what a hostile store could make of it."""
    made = [b"10000000%08x" % zlib.crc32(block) + block]
    if len(key) == 32:
        made.append(aes_gcm_encrypt(key, block))
    if block:
        made.append(xxtea_encrypt(block, key[:16].ljust(16, b"\0")))
    return made


def _decode(key: bytes, payload: bytes, size: int) -> bytes | None:
    try:
        plain = decode(key, payload, size)
    except ChunkError as error:
        assert "\n" not in str(error)
        plain = None
    else:
        codec = codec_of(key)
        assert codec is not Codec.UNKNOWN and key_of(codec, plain) == canonical(codec, key)
        assert len(plain) <= size
    try:
        assert len(decode(key, payload, size, allow_unverified=True)) <= size
    except ChunkError:
        assert plain is None
    return plain


def _check_cipher(data: bytes) -> None:
    try:
        plain = xxtea_decrypt(data, b"k" * 16)
    except ValueError:
        return
    assert len(plain) <= len(data)


def _check_snappy(data: bytes, size: int) -> None:
    plain = None
    with contextlib.suppress(ChunkCorruptError):
        plain = snappy.decompress(data, size)
    if 0 <= declared_length(data) <= size:
        assert plain == _decompressed_by_others(data)
    else:
        assert plain is None


def _decompressed_by_others(block: bytes) -> bytes | None:
    with contextlib.suppress(cramjam.DecompressionError):
        return bytes(cramjam.snappy.decompress_raw(block))
    return None


def samples() -> list[bytes]:
    plain = b"hello hello hello " * 30
    encoded = [encode(codec, plain).payload for codec in Codec if codec is not Codec.UNKNOWN]
    blocks = [snappy.compress(plain), snappy.compress(b""), b"\xff\xff\xff\xff\x0f" + b"\0" * 20]
    return [bytes([first]) + data for first in (4, 12, 20, 36) for data in (*encoded, *blocks)]
