"""Snappy's blocks: our decompression judged by that of another library, and by blocks made by hand."""

from __future__ import annotations

import random

import cramjam
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zerofs.chunk import snappy
from zerofs.chunk._batch import PATHS, decode_lanes
from zerofs.chunk._snappy import declared_length
from zerofs.chunk.batch import xxtea_encrypt
from zerofs.errors import ChunkCorruptError

MOST = 1 << 20  # plain bytes


def varint(number: int) -> bytes:
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def ours(block: bytes) -> bytes | None:
    try:
        return snappy.decompress(block, MOST)
    except ChunkCorruptError:
        return None


def theirs(block: bytes) -> bytes | None:
    if not 0 <= declared_length(block) <= MOST:
        return None
    try:
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError:
        return None


# -- elements, as the format's description has them: what they look like, and what they do ----


def literal(data: bytes, digits: int = 0) -> bytes:
    """`digits`: bytes that say the length, 0: it stands in the tag."""
    length = len(data) - 1
    if not digits:
        return bytes([length << 2]) + data
    return bytes([(59 + digits) << 2]) + length.to_bytes(digits, "little") + data


def copy(kind: int, offset: int, length: int) -> bytes:
    if kind == 1:
        return bytes([(offset >> 8) << 5 | (length - 4) << 2 | 1, offset & 0xFF])
    return bytes([(length - 1) << 2 | kind]) + offset.to_bytes(2 if kind == 2 else 4, "little")


@st.composite
def sound_blocks(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A block of any elements, and what it stands for."""
    plain, elements = bytearray(), b""
    for _ in range(draw(st.integers(0, 12))):
        if not plain or draw(st.booleans()):
            digits = draw(st.integers(0, 4))
            data = draw(st.binary(min_size=5 if digits else 1, max_size=250 if digits else 60))
            elements += literal(data, digits)
            plain += data
        else:
            kind = draw(st.integers(1, 3))
            near = draw(st.booleans())  # overlapping copies are the difficult ones
            offset = draw(st.integers(1, min(len(plain), 20 if near else 2047 if kind == 1 else 65535)))
            length = draw(st.integers(4, 11) if kind == 1 else st.integers(1, 64))
            elements += copy(kind, offset, length)
            for _ in range(length):
                plain.append(plain[-offset])
    return varint(len(plain)) + elements, bytes(plain)


@settings(deadline=None)
@given(sound_blocks())
def test_every_kind_of_element(block_and_plain: tuple[bytes, bytes]) -> None:
    block, plain = block_and_plain
    assert ours(block) == plain == theirs(block)


@settings(max_examples=400, deadline=None)
@given(sound_blocks(), st.randoms(use_true_random=False))
def test_damaged_blocks_are_refused_or_read_as_by_others(
    block_and_plain: tuple[bytes, bytes], chance: random.Random
) -> None:
    block = bytearray(block_and_plain[0])
    for _ in range(chance.randrange(1, 4)):
        match chance.randrange(3):
            case 0 if block:
                block[chance.randrange(len(block))] = chance.choice(
                    [0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)]
                )
            case 1 if block:
                del block[chance.randrange(len(block)) :]
            case _:
                block += chance.randbytes(chance.randrange(1, 6))
    assert ours(bytes(block)) == theirs(bytes(block))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=80))
@example(b"")
@example(b"\0")
@example(b"\0\0")
@example(b"\x80\x80\x80\x80\x80\x00")
@example(b"\x01\xfc\xff\xff\xff\xff")
@example(b"\x05\x00a\x0f\x00\x00\x00\x00")
def test_noise_is_refused_or_read_as_by_others(block: bytes) -> None:
    assert ours(block) == theirs(block)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 60, 61, 65_535, 65_536, 65_537, 512 * 1024])
@pytest.mark.parametrize("period", [1, 3, 8, 15, 16, 17, 997, 1 << 20])
def test_what_others_compress(size: int, period: int) -> None:
    piece = random.Random(period).randbytes(min(period, size))
    plain = (piece * (size // max(1, len(piece)) + 1))[:size]
    block = bytes(cramjam.snappy.compress_raw(plain))
    assert ours(block) == plain
    for cut in (1, 2, 17):
        assert ours(block[:-cut]) == theirs(block[:-cut]) is None


@pytest.mark.parametrize(
    ("block", "length"),
    [
        (b"", -1),
        (b"\0", 0),
        (b"\x7f", 127),
        (b"\x80\x01", 128),
        (b"\x80", -1),
        (b"\xff\xff\xff\xff\x0f", (1 << 32) - 1),
        (b"\xff\xff\xff\xff\x1f", -1),
        (b"\x80\x80\x80\x80\x80\0", -1),
    ],
)
def test_lengths_have_32_bits(block: bytes, length: int) -> None:
    assert declared_length(block) == length


# -- several at once ------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20), st.sampled_from(PATHS))
def test_blocks_in_lanes_come_out_as_they_do_alone(blocks: list[bytes], path: str) -> None:
    blocks = sorted([*blocks, *(bytes(cramjam.snappy.compress_raw(block)) for block in blocks)], key=len)[
        ::-1
    ]
    key = bytes(range(16))
    counts = [8] * (len(blocks) // 8) + [len(blocks) % 8] * (len(blocks) % 8 > 0)
    encrypted = [xxtea_encrypt(block, key) for block in blocks]
    decoded = decode_lanes(encrypted, [key] * len(blocks), [MOST] * len(blocks), counts, path=path)
    assert decoded == [ours(block) for block in blocks]


@pytest.mark.parametrize(
    ("payloads", "keys", "limits", "counts", "digest_size"),
    [
        ([bytes(8)], [], [1], [1], 0),
        ([bytes(8)], [bytes(16)], [], [1], 0),
        ([bytes(8)], [bytes(16)], [1], [], 0),
        ([bytes(8)], [bytes(16)], [1], [0, 1], 0),
        ([bytes(8)], [bytes(16)], [1], [2, -1], 0),
        ([bytes(8)] * 9, [bytes(16)] * 9, [1] * 9, [9], 0),
        ([bytes(8)], [bytes(15)], [1], [1], 0),
        ([bytes(8)], [bytes(16)], [1], [1], 17),
        ([bytes(4)], [bytes(16)], [1], [1], 0),
        ([bytes(9)], [bytes(16)], [1], [1], 0),
        ([bytes(8), bytes(12)], [bytes(16)] * 2, [1] * 2, [2], 0),
    ],
)
def test_what_does_not_fit_into_lanes_is_refused(
    payloads: list[bytes], keys: list[bytes], limits: list[int], counts: list[int], digest_size: int
) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_lanes(payloads, keys, limits, counts, digest_size)
    assert decode_lanes([], [], [], []) == []
