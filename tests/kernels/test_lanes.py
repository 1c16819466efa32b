"""Several chunks at once: every path gives, bit for bit, what the references give for each chunk alone."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chunk.reference import decrypt as reference_decrypt
from tests.chunk.reference import encrypt as reference_encrypt
from zerofs._fast import xxtea_decrypt, xxtea_encrypt
from zerofs.chunk._batch import LANES, PATHS, blake2b_lanes, xxtea_decrypt_lanes, xxtea_encrypt_lanes

every_path = pytest.mark.parametrize("path", [*PATHS, None])
lengths = st.one_of(
    st.integers(1, 300),
    st.integers(1, 70_000),
    st.sampled_from([4, 8, 60, 64, 204, 205, 208, 209, 4096, 65536]),
)
batches = st.lists(lengths, min_size=1, max_size=LANES).map(lambda sizes: sorted(sizes, reverse=True))


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def misaligned(data: bytes, offset: int) -> memoryview:
    """`data` at an address that is `offset` bytes off."""
    return memoryview(bytearray(offset) + data)[offset:]


def chunks_of(sizes: list[int]) -> tuple[list[bytes], list[bytes]]:
    return [noise(i, size) for i, size in enumerate(sizes)], [noise(-1 - i, 16) for i in range(len(sizes))]


def check_cipher(sizes: list[int], path: str | None, offset: int = 0) -> None:
    plains, keys = chunks_of(sizes)
    expected = [xxtea_encrypt(plain, key) for plain, key in zip(plains, keys, strict=True)]
    given_plains = [misaligned(plain, offset + i) for i, plain in enumerate(plains)]
    assert xxtea_encrypt_lanes(given_plains, keys, path=path) == expected
    given_blocks = [misaligned(block, offset + i) for i, block in enumerate(expected)]
    assert xxtea_decrypt_lanes(given_blocks, keys, path=path) == plains


def test_the_portable_path_is_everywhere() -> None:
    assert PATHS[0] == "portable"


def test_a_path_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="altivec"):
        blake2b_lanes([b""], 16, path="altivec")


# -- XXTEA ---------------------------------------------------------------------------------


@every_path
def test_the_cipher_equals_the_reference_for_every_small_length(path: str | None) -> None:
    for longest in range(1, 260):
        sizes = sorted((max(1, longest - 9 * i) for i in range(LANES)), reverse=True)
        plains, keys = chunks_of(sizes)
        expected = [reference_encrypt(plain, key) for plain, key in zip(plains, keys, strict=True)]
        assert xxtea_encrypt_lanes(plains, keys, path=path) == expected, sizes
        assert xxtea_decrypt_lanes(expected, keys, path=path) == plains, sizes
        assert reference_decrypt(expected[0], keys[0]) == plains[0]


@every_path
@pytest.mark.parametrize("count", range(1, LANES + 1))
def test_any_number_of_lanes_may_be_taken(path: str | None, count: int) -> None:
    check_cipher([1000] * count, path)
    check_cipher([1000 - 7 * i for i in range(count)], path)


@every_path
@settings(max_examples=60)
@given(sizes=batches, offset=st.integers(0, 63))
def test_the_cipher_takes_uneven_and_misaligned_batches(
    path: str | None, sizes: list[int], offset: int
) -> None:
    check_cipher(sizes, path, offset)


@every_path
def test_the_cipher_takes_whole_chunks_beside_the_shortest(path: str | None) -> None:
    check_cipher([512 * 1024] * LANES, path)
    check_cipher([524_320, 524_319, 524_288, 300_000, 70_000, 205, 3, 1], path)


@every_path
def test_one_key_for_all_and_one_block_for_all(path: str | None) -> None:
    block = xxtea_encrypt(b"the same" * 100, b"k" * 16)
    assert xxtea_decrypt_lanes([block] * LANES, [b"k" * 16] * LANES, path=path) == [b"the same" * 100] * LANES


@every_path
@settings(max_examples=60)
@given(sizes=batches, damaged=st.integers(0, LANES - 1))
def test_a_wrong_key_costs_only_its_own_chunk(path: str | None, sizes: list[int], damaged: int) -> None:
    plains, keys = chunks_of(sizes)
    blocks: list[bytes] = xxtea_encrypt_lanes(plains, keys, path=path)
    damaged %= len(sizes)
    keys[damaged] = bytes(16)
    expected: list[bytes | None] = plains
    try:
        expected[damaged] = xxtea_decrypt(blocks[damaged], keys[damaged])
    except ValueError:
        expected[damaged] = None
    assert xxtea_decrypt_lanes(blocks, keys, path=path) == expected


@pytest.mark.parametrize(
    ("blocks", "keys", "reason"),
    [
        ([], [], "0 chunks do not fit"),
        ([bytes(8)] * (LANES + 1), [bytes(16)] * (LANES + 1), "do not fit into 8 lanes"),
        ([bytes(8)] * 2, [bytes(16)], "1 keys for 2 chunks"),
        ([bytes(8)], [bytes(15)], "16 bytes, not 15"),
        ([bytes(8)], [bytes(17)], "16 bytes, not 17"),
        ([bytes(8), bytes(12)], [bytes(16)] * 2, "the longest comes first"),
    ],
)
def test_the_cipher_refuses_what_it_cannot_take(blocks: list[bytes], keys: list[bytes], reason: str) -> None:
    for function in (xxtea_encrypt_lanes, xxtea_decrypt_lanes):
        with pytest.raises(ValueError, match=reason):
            function(blocks, keys)


@pytest.mark.parametrize("size", [0, 1, 4, 7, 9, 10, 11])
def test_what_is_no_block_is_not_decrypted(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes are no XXTEA block"):
        xxtea_decrypt_lanes([bytes(12), bytes(size)], [bytes(16)] * 2)


def test_nothing_is_not_encrypted() -> None:
    with pytest.raises(ValueError, match="nothing to encrypt"):
        xxtea_encrypt_lanes([b"x", b""], [bytes(16)] * 2)


# -- BLAKE2b -------------------------------------------------------------------------------


def blake2b(messages: list[bytes], size: int) -> list[bytes]:
    return [hashlib.blake2b(message, digest_size=size).digest() for message in messages]


@every_path
@pytest.mark.parametrize("digest_size", [16, 32])
def test_hashes_of_every_small_length_equal_hashlib(path: str | None, digest_size: int) -> None:
    messages = [noise(size, size) for size in range(600)]
    assert blake2b_lanes(messages, digest_size, path=path) == blake2b(messages, digest_size)
    for message in messages:
        assert blake2b_lanes([message], digest_size, path=path) == blake2b([message], digest_size)


@every_path
@settings(max_examples=60)
@given(
    sizes=st.lists(st.one_of(lengths, st.integers(0, 400)), max_size=30),
    offset=st.integers(0, 63),
    digest_size=st.integers(1, 64),
)
def test_hashes_of_uneven_and_misaligned_messages(
    path: str | None, sizes: list[int], offset: int, digest_size: int
) -> None:
    messages = [noise(i, size) for i, size in enumerate(sizes)]
    given_messages = [misaligned(message, offset + i) for i, message in enumerate(messages)]
    assert blake2b_lanes(given_messages, digest_size, path=path) == blake2b(messages, digest_size)


@every_path
def test_hashes_of_whole_chunks(path: str | None) -> None:
    messages = [noise(i, 512 * 1024 - i % 3) for i in range(9)]
    assert blake2b_lanes(messages, 16, path=path) == blake2b(messages, 16)


@pytest.mark.parametrize("digest_size", [0, 65])
def test_other_digest_sizes_are_refused(digest_size: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        blake2b_lanes([b"x"], digest_size)


def test_what_has_no_bytes_is_refused_and_nothing_is_kept() -> None:
    held = bytearray(b"x" * 100)
    with pytest.raises(TypeError):
        blake2b_lanes([held, "text"], 16)
    held += b"y"  # a buffer that were still held could not grow
