"""Chunks between store and cache: encoded payload to plain bytes and back, always verified.

Place: the fetcher hands each payload that a store delivered to :func:`decode`; ``pack`` makes
payloads with :func:`encode`; `batch` does either for several chunks at once.  What a chunk's key looks
like names its generation, and thereby the cipher, the hash and whether the payload carries a header:

=====================  ======================  ================  ===================
key                    hash of the plain bytes  cipher            id and payload
=====================  ======================  ================  ===================
64 hexadecimal digits  SHA-256                 XXTEA             text id, 16-byte header
16 bytes               BLAKE2b-128             XXTEA             binary id
32 bytes               BLAKE2b-256             AES-256-GCM       binary id
=====================  ======================  ================  ===================

Functions only, no state and no locks: any thread may run them.  The cipher, snappy and hashes of
whole chunks work without the GIL.  Payloads come from outside: every length is bounded before
anything is allocated by it, and nothing leaves :func:`decode` whose hash is not its key.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, NamedTuple

from zerofs._fast import xxtea_decrypt, xxtea_encrypt
from zerofs.chunk import header, snappy
from zerofs.errors import ChunkCorruptError, ChunkUnverifiableError

if TYPE_CHECKING:
    from typing_extensions import Buffer

CIPHER_KEY_BYTES = 16  # what XXTEA takes; of a text key its first characters
NONCE_BYTES = 12  # AES-GCM
CIPHER_OVERHEAD = 16  # most that a cipher adds: the GCM tag; XXTEA pads by 3 and adds a word

_HEX_KEY = re.compile(rb"[0-9A-Fa-f]{64}")


class Codec(enum.IntEnum):
    """A way to encode a chunk.  The values are part of the cache's layout."""

    UNKNOWN = 0
    SHA256_XXTEA = 1
    BLAKE2B128_XXTEA = 2
    BLAKE2B256_AESGCM = 3


_NAME_PREFIXES = [bytes((codec,)) for codec in sorted(Codec)]


class Encoded(NamedTuple):
    """What a writer needs: `id` and `key` go into the flist, `payload` into the store under `id`."""

    id: bytes
    key: bytes
    payload: bytes


def codec_of(key: bytes) -> Codec:
    """Which codec `key` belongs to; UNKNOWN where no hash makes keys of this form."""
    length = len(key)
    if length == 64 and _HEX_KEY.fullmatch(key):
        return Codec.SHA256_XXTEA
    if length == 16:
        return Codec.BLAKE2B128_XXTEA
    if length == 32:
        return Codec.BLAKE2B256_AESGCM
    return Codec.UNKNOWN


def cache_name(key: bytes) -> bytes:
    """The name of a chunk in the cache: one byte for the codec, then the key as it stands.

    Never the store's id: a flist may claim any id for its own bytes, but not another's hash.
    """
    return _NAME_PREFIXES[codec_of(key)] + key


def decode(key: bytes, payload: Buffer, size: int, *, allow_unverified: bool = False) -> bytes:
    """The plain bytes of a chunk, at most `size` of them, proven to hash to `key`.

    A chunk whose key names no hash is refused, unless `allow_unverified`: then it is taken for
    XXTEA under the first 16 bytes of the key, with or without a header.

    Raises ChunkCorruptError for whatever does not decode to such bytes, ChunkUnverifiableError for
    a key that names no hash.
    """
    codec = codec_of(key)
    if codec is Codec.UNKNOWN and not allow_unverified:
        raise ChunkUnverifiableError(f"a chunk's key of {len(key)} bytes names no known hash")
    body = memoryview(payload).cast("B")
    if len(body) > largest_payload(size):
        raise ChunkCorruptError(f"a payload of {len(body)} bytes is too long for a chunk of {size}")
    if codec is Codec.BLAKE2B256_AESGCM:
        block: Buffer = aes_gcm_decrypt(key, body)
    else:
        if codec is not Codec.BLAKE2B128_XXTEA:
            body = header.strip(body)
        block = _xxtea_decrypt(key, body)
    plain = snappy.decompress(block, size)
    if codec is not Codec.UNKNOWN and key_of(codec, plain) != canonical(codec, key):
        raise ChunkCorruptError("a chunk's bytes do not hash to its key")
    return plain


def encode(codec: Codec, plain: Buffer) -> Encoded:
    """Encode `plain` (one chunk) for the store.  Equal bytes give equal results."""
    key = key_of(codec, plain)
    block = snappy.compress(plain)
    if codec is Codec.BLAKE2B256_AESGCM:
        encrypted = aes_gcm_encrypt(key, block)
    else:
        encrypted = xxtea_encrypt(block, key[:CIPHER_KEY_BYTES])
    return enclose(codec, key, encrypted, key_of(codec, encrypted))


# -- the steps, of which `batch` takes each for several chunks -------------------------------


def largest_payload(size: int) -> int:
    """The most bytes that the payload of a chunk of `size` plain bytes has."""
    return header.SIZE + snappy.largest_block(size) + CIPHER_OVERHEAD


def enclose(codec: Codec, key: bytes, encrypted: bytes, encrypted_hash: bytes) -> Encoded:
    """The last step of encoding; `encrypted_hash` is what `key_of` makes of `encrypted`."""
    payload = header.add(encrypted) if codec is Codec.SHA256_XXTEA else encrypted
    return Encoded(encrypted_hash, key, payload)


def key_of(codec: Codec, data: Buffer) -> bytes:
    """The hash of `data` in the form in which the codec's keys and ids stand in a flist."""
    import hashlib

    match codec:
        case Codec.SHA256_XXTEA:
            return hashlib.sha256(data).hexdigest().encode("ascii")
        case Codec.BLAKE2B128_XXTEA:
            return hashlib.blake2b(data, digest_size=16).digest()
        case Codec.BLAKE2B256_AESGCM:
            return hashlib.blake2b(data, digest_size=32).digest()
        case Codec.UNKNOWN:
            raise ValueError("no known hash makes keys of this codec")


def canonical(codec: Codec, key: bytes) -> bytes:
    """A flist's `key` as `key_of` would spell it."""
    return key.lower() if codec is Codec.SHA256_XXTEA else key


def _xxtea_decrypt(key: bytes, body: memoryview) -> bytes:
    try:
        # The ciphers of this family take a shorter key as if zeros followed.
        return xxtea_decrypt(body, key[:CIPHER_KEY_BYTES].ljust(CIPHER_KEY_BYTES, b"\0"))
    except ValueError as error:
        raise ChunkCorruptError(f"a chunk does not decrypt: {error}") from error


def aes_gcm_decrypt(key: bytes, body: memoryview) -> bytes:
    """Raises ChunkCorruptError where the tag does not match."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(key[:NONCE_BYTES], body, None)
    except (InvalidTag, ValueError) as error:
        raise ChunkCorruptError("a chunk does not decrypt: its tag does not match") from error


def aes_gcm_encrypt(key: bytes, block: bytes) -> bytes:
    """`block` under `key`, the tag at its end."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    # The nonce may come from the key: the key is a hash of the bytes, so no pair meets two texts.
    return AESGCM(key).encrypt(key[:NONCE_BYTES], block, None)
