"""Chunks between store and cache, several at a time: what `codec` does to one, with the same results.

Place: the fetcher hands what a store has delivered to :func:`decode_many`, pack what it has read to
:func:`encode_many`.  XXTEA and BLAKE2b are serial within a chunk; here each chunk has a lane of a vector
(see `_batch`), and chunks of about one length go together, since all lanes take as long as the longest.
A chunk without company takes the way of `codec`, which is faster for it.  So does one that does not come out
right, and that way says what is wrong with it: there is one set of checks and errors.

Functions only, no state and no locks: any thread may run them; ciphers and hashes work without the GIL.
Beside the payloads and results, decoding needs as much again as the payloads, and twice the longest `LANES`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from zerofs._fast import xxtea_encrypt
from zerofs.chunk import header, snappy
from zerofs.chunk._batch import LANES, PATHS, blake2b_lanes, decode_lanes, xxtea_encrypt_lanes
from zerofs.chunk.codec import (
    CIPHER_KEY_BYTES,
    Codec,
    Encoded,
    aes_gcm_decrypt,
    aes_gcm_encrypt,
    canonical,
    codec_of,
    decode,
    enclose,
    encode,
    key_of,
    largest_payload,
)
from zerofs.errors import ChunkCorruptError, ChunkError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_DIGEST_BYTES = {Codec.BLAKE2B128_XXTEA: 16, Codec.BLAKE2B256_AESGCM: 32}
_LEAST = 4096  # bytes of chunks that go together; for fewer, gathering costs more than it gains
_LEAST_BLOCK = 8  # bytes that XXTEA works on
# In lanes of two words, BLAKE2b is no faster than one message at a time.
_HASHES_IN_LANES = PATHS[-1] != "portable"


class Request(NamedTuple):
    """What :func:`zerofs.chunk.codec.decode` wants to know of a chunk."""

    key: bytes
    payload: Buffer
    size: int  # most plain bytes


def decode_many(requests: Sequence[Request], *, allow_unverified: bool = False) -> list[bytes | ChunkError]:
    """For each request, in order, the plain bytes that `decode` returns or the ChunkError that it raises."""
    if len(requests) == 1:
        return [_decode_alone(requests[0], allow_unverified)]
    payloads = [memoryview(request.payload).cast("B") for request in requests]
    if sum(sorted(map(len, payloads))[-LANES:]) < _LEAST:
        return [_decode_alone(request, allow_unverified) for request in requests]
    plains: list[bytes | None] = [None] * len(requests)
    for codec, members in _by_codec(requests, payloads).items():
        if codec is Codec.SHA256_XXTEA:
            for i in members:
                payloads[i] = header.strip(payloads[i])
        order, counts = _together(codec, members, [len(payload) for payload in payloads])
        if order:
            decoded = _decode(codec, [requests[i] for i in order], [payloads[i] for i in order], counts)
            for i, plain in zip(order, decoded, strict=True):
                plains[i] = plain
    return [
        _decode_alone(request, allow_unverified) if plain is None else plain
        for request, plain in zip(requests, plains, strict=True)
    ]


def encode_many(codec: Codec, plains: Sequence[Buffer]) -> list[Encoded]:
    """`encode` of each of `plains`, in order.  The bytes of all are in memory three times meanwhile."""
    if len(plains) < 2:
        return [encode(codec, plain) for plain in plains]
    keys = _keys_of(codec, plains)
    blocks = [snappy.compress(plain) for plain in plains]
    if codec is Codec.BLAKE2B256_AESGCM:
        encrypted = [aes_gcm_encrypt(key, block) for key, block in zip(keys, blocks, strict=True)]
    else:
        encrypted = _xxtea_encrypt_many(blocks, [key[:CIPHER_KEY_BYTES] for key in keys])
    hashes = _keys_of(codec, encrypted)
    return [enclose(codec, *each) for each in zip(keys, encrypted, hashes, strict=True)]


def _by_codec(requests: Sequence[Request], payloads: Sequence[memoryview]) -> dict[Codec, list[int]]:
    """The positions of those that may go together."""
    members: dict[Codec, list[int]] = {}
    for i, request in enumerate(requests):
        codec = codec_of(request.key)
        if codec is not Codec.UNKNOWN and len(payloads[i]) <= largest_payload(request.size):
            members.setdefault(codec, []).append(i)
    return members


def _groups(members: list[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Positions that go together, the longest first; what is missing is better off alone.

    All lanes take as long as the longest, and at least half as long again as a lone chunk would.
    """
    order = sorted(members, key=sizes.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        group = order[start : start + LANES]
        total = sum(sizes[i] for i in group)
        if total < _LEAST:
            return
        if 2 * total < 3 * sizes[group[0]]:
            start += 1
        else:
            yield group
            start += len(group)


def _decode_alone(request: Request, allow_unverified: bool) -> bytes | ChunkError:
    try:
        return decode(*request, allow_unverified=allow_unverified)
    except ChunkError as error:
        return error


def _together(codec: Codec, members: list[int], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions of those that are better off together, in groups, and how many are in each group."""
    if codec is not Codec.BLAKE2B256_AESGCM:
        members = [i for i in members if sizes[i] % 4 == 0 and sizes[i] >= _LEAST_BLOCK]
    groups = list(_groups(members, sizes))
    return [i for group in groups for i in group], [len(group) for group in groups]


def _decode(
    codec: Codec, requests: list[Request], payloads: list[memoryview], counts: list[int]
) -> list[bytes | None]:
    """The plain bytes of chunks that go together in groups of `counts`; None for one that does not come out right."""
    keys = [request.key for request in requests]
    limits = [request.size for request in requests]
    verified = False
    if codec is Codec.BLAKE2B256_AESGCM:
        plains = [
            _decompress(_aes_gcm_decrypt(key, payload), limit)
            for key, payload, limit in zip(keys, payloads, limits, strict=True)
        ]
    elif codec is Codec.SHA256_XXTEA:
        plains = decode_lanes(payloads, [key[:CIPHER_KEY_BYTES] for key in keys], limits, counts)
    else:
        # Where one outlasts all others, lanes are no place to hash it.
        verified = _HASHES_IN_LANES and sum(limits) >= 3 * max(limits)
        plains = decode_lanes(payloads, keys, limits, counts, _DIGEST_BYTES[codec] if verified else 0)
    return plains if verified else _verified(codec, keys, plains)


def _verified(codec: Codec, keys: list[bytes], plains: list[bytes | None]) -> list[bytes | None]:
    """`plains`, but None for one that does not hash to its key."""
    hashes = iter(_keys_of(codec, [plain for plain in plains if plain is not None]))
    return [
        plain if plain is not None and next(hashes) == canonical(codec, key) else None
        for key, plain in zip(keys, plains, strict=True)
    ]


def _aes_gcm_decrypt(key: bytes, body: memoryview) -> bytes | None:
    with contextlib.suppress(ChunkCorruptError):
        return aes_gcm_decrypt(key, body)
    return None


def _decompress(block: bytes | None, size: int) -> bytes | None:
    if block is not None:
        with contextlib.suppress(ChunkCorruptError):
            return snappy.decompress(block, size)
    return None


def _xxtea_encrypt_many(blocks: list[bytes], keys: list[bytes]) -> list[bytes]:
    """Any number of `blocks`, in order."""
    encrypted: list[bytes | None] = [None] * len(blocks)
    for group in _groups(list(range(len(blocks))), [len(block) for block in blocks]):
        together = xxtea_encrypt_lanes([blocks[i] for i in group], [keys[i] for i in group])
        for i, each in zip(group, together, strict=True):
            encrypted[i] = each
    return [xxtea_encrypt(blocks[i], keys[i]) if each is None else each for i, each in enumerate(encrypted)]


def _keys_of(codec: Codec, data: Sequence[Buffer]) -> list[bytes]:
    """`key_of` each of `data`, in order."""
    digest_size = _DIGEST_BYTES.get(codec)
    if digest_size is None or not _HASHES_IN_LANES:
        return [key_of(codec, each) for each in data]
    # Lanes are refilled as they become free, so only one that outlasts all others must go alone.
    sizes = [memoryview(each).nbytes for each in data]
    order = sorted(range(len(data)), key=sizes.__getitem__, reverse=True)
    alone = 0
    rest = sum(sizes)
    while alone < len(order) and rest < 2 * sizes[order[alone]]:
        rest -= sizes[order[alone]]
        alone += 1
    hashes = [b""] * len(data)
    for i in order[:alone]:
        hashes[i] = key_of(codec, data[i])
    together = order[alone:]
    digests = blake2b_lanes([data[i] for i in together], digest_size)
    for i, digest in zip(together, digests, strict=True):
        hashes[i] = digest
    return hashes
