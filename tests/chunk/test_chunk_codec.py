"""Chunk encoding: the golden payloads, round trips, and everything that must be refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chunk.raw_flist import files
from tests.chunk.reference import decrypt as reference_decrypt
from tests.chunk.reference import encrypt as reference_encrypt
from tests.support.golden import Golden
from zerofs._fast import xxtea_decrypt, xxtea_encrypt
from zerofs.chunk import header, snappy
from zerofs.chunk.codec import Codec, cache_name, codec_of, decode, encode
from zerofs.errors import ChunkCorruptError, ChunkUnverifiableError

KNOWN = [Codec.SHA256_XXTEA, Codec.BLAKE2B128_XXTEA, Codec.BLAKE2B256_AESGCM]
CHUNK = 512 * 1024
plains = st.one_of(
    st.binary(max_size=600),
    st.builds(lambda piece, n: piece * n, st.binary(min_size=1, max_size=9), st.integers(1, 5000)),
)


def test_golden_chunks_decode_to_the_files_of_the_manifest(golden_flist: Golden) -> None:
    rows = [row for row in map(json.loads, golden_flist.manifest()) if row["kind"] == "file"]
    stored = dict(golden_flist.chunks())
    decoded: set[bytes] = set()
    seen = {}
    for path, chunks in files(golden_flist.flist):
        digest = hashlib.sha256()
        for chunk_id, key in chunks:
            digest.update(decode(key, stored[chunk_id], CHUNK))
            decoded.add(chunk_id)
        seen[path] = digest.hexdigest()
    assert seen == {row["path"]: row["sha256"] for row in rows}
    assert decoded == set(stored), "a chunk of the archive belongs to no file"


def test_golden_chunks_have_the_ids_and_keys_that_we_would_give_them(golden_flist: Golden) -> None:
    stored = dict(golden_flist.chunks())
    for _, chunks in files(golden_flist.flist):
        for chunk_id, key in chunks:
            # Compressed bytes may differ between snappy versions: hash what the other writer made.
            body = header.strip(memoryview(stored[chunk_id]))
            hashed = hashlib.sha256(body).hexdigest().encode() if len(key) == 64 else _blake(body)
            assert hashed == chunk_id
            assert encode(codec_of(key), decode(key, stored[chunk_id], CHUNK)).key == key


def _blake(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


# -- which codec ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "codec"),
    [
        (b"0123456789abcdef" * 4, Codec.SHA256_XXTEA),
        (b"0123456789ABCDEF" * 4, Codec.SHA256_XXTEA),
        (b"0123456789abcdeg" * 4, Codec.UNKNOWN),
        (b"0123456789abcdef" * 4 + b"\n", Codec.UNKNOWN),
        (bytes(64), Codec.UNKNOWN),
        (bytes(16), Codec.BLAKE2B128_XXTEA),
        (b"0123456789abcdef" * 2, Codec.BLAKE2B256_AESGCM),
        (bytes(32), Codec.BLAKE2B256_AESGCM),
        (b"", Codec.UNKNOWN),
        (bytes(15), Codec.UNKNOWN),
        (bytes(40), Codec.UNKNOWN),
    ],
)
def test_the_form_of_the_key_names_the_codec(key: bytes, codec: Codec) -> None:
    assert codec_of(key) is codec
    assert cache_name(key) == bytes([codec]) + key


def test_an_upper_case_key_is_the_same_hash() -> None:
    plain = b"upper" * 100
    key = hashlib.sha256(plain).hexdigest().upper().encode()
    payload = header.add(xxtea_encrypt(snappy.compress(plain), key[:16]))
    assert decode(key, payload, CHUNK) == plain


def test_an_unknown_key_is_refused_unless_it_is_allowed() -> None:
    key = b"no hash has forty digits".ljust(40, b".")
    payload = xxtea_encrypt(snappy.compress(b"plain"), key[:16])
    with pytest.raises(ChunkUnverifiableError):
        decode(key, payload, CHUNK)
    assert decode(key, payload, CHUNK, allow_unverified=True) == b"plain"
    assert decode(key, header.add(payload), CHUNK, allow_unverified=True) == b"plain"
    with pytest.raises(ChunkCorruptError):
        decode(key, payload, 4, allow_unverified=True)


def test_allowing_the_unverifiable_still_verifies_what_can_be() -> None:
    encoded = encode(Codec.BLAKE2B128_XXTEA, b"one")
    other = xxtea_encrypt(snappy.compress(b"two"), encoded.key)
    with pytest.raises(ChunkCorruptError, match="do not hash"):
        decode(encoded.key, other, CHUNK, allow_unverified=True)


# -- round trips ---------------------------------------------------------------------------


@pytest.mark.parametrize("codec", KNOWN)
@given(plain=plains)
def test_round_trip(codec: Codec, plain: bytes) -> None:
    encoded = encode(codec, plain)
    assert codec_of(encoded.key) is codec
    assert decode(encoded.key, encoded.payload, len(plain)) == plain
    assert decode(encoded.key, memoryview(bytearray(encoded.payload)), CHUNK) == plain
    assert encode(codec, memoryview(plain)) == encoded


@pytest.mark.parametrize("codec", KNOWN)
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK])
def test_round_trip_at_the_ends(codec: Codec, size: int) -> None:
    plain = hashlib.shake_128(b"incompressible").digest(size)
    encoded = encode(codec, plain)
    assert decode(encoded.key, encoded.payload, size) == plain


def test_ids_are_hashes_of_what_is_encrypted() -> None:
    text = encode(Codec.SHA256_XXTEA, b"x" * 999)
    assert text.id == hashlib.sha256(text.payload[16:]).hexdigest().encode()
    short = encode(Codec.BLAKE2B128_XXTEA, b"x" * 999)
    assert short.id == hashlib.blake2b(short.payload, digest_size=16).digest()
    fungi = encode(Codec.BLAKE2B256_AESGCM, b"x" * 999)
    assert fungi.id == hashlib.blake2b(fungi.payload, digest_size=32).digest()


def test_an_unknown_codec_does_not_encode() -> None:
    with pytest.raises(ValueError, match="no known hash"):
        encode(Codec.UNKNOWN, b"x")


@given(plain=st.binary(min_size=1, max_size=300), key=st.binary(min_size=16, max_size=16))
def test_the_cipher_equals_its_reference(plain: bytes, key: bytes) -> None:
    encrypted = reference_encrypt(plain, key)
    assert xxtea_encrypt(plain, key) == encrypted
    assert xxtea_decrypt(encrypted, key) == plain == reference_decrypt(encrypted, key)


# -- damage --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", KNOWN)
@settings(max_examples=150)
@given(plain=plains, where=st.integers(0, 10**9))
def test_one_flipped_bit_anywhere_is_corrupt(codec: Codec, plain: bytes, where: int) -> None:
    encoded = encode(codec, plain)
    damaged = bytearray(encoded.payload)
    bit = where % (len(damaged) * 8)
    damaged[bit // 8] ^= 1 << bit % 8
    if codec is Codec.SHA256_XXTEA and bit // 8 < header.SIZE and b"\0" in bytes(damaged[8 : bit // 8]):
        assert decode(encoded.key, damaged, len(plain)) == plain, "what follows the NUL is anything"
        return
    with pytest.raises(ChunkCorruptError):
        decode(encoded.key, damaged, len(plain))


@pytest.mark.parametrize("codec", KNOWN)
@given(payload=st.binary(max_size=200))
def test_noise_is_corrupt(codec: Codec, payload: bytes) -> None:
    with pytest.raises(ChunkCorruptError):
        decode(encode(codec, b"something else").key, payload, CHUNK)


@pytest.mark.parametrize("codec", KNOWN)
def test_truncated_and_extended_payloads_are_corrupt(codec: Codec) -> None:
    encoded = encode(codec, b"some chunk" * 50)
    for cut in (1, 4, len(encoded.payload) // 2, len(encoded.payload)):
        with pytest.raises(ChunkCorruptError):
            decode(encoded.key, encoded.payload[:-cut], CHUNK)
    for tail in (b"\0", b"\0" * 4, b"x" * 16):
        with pytest.raises(ChunkCorruptError):
            decode(encoded.key, encoded.payload + tail, CHUNK)


@pytest.mark.parametrize("codec", KNOWN)
def test_a_chunk_longer_than_its_place_is_corrupt(codec: Codec) -> None:
    encoded = encode(codec, bytes(1000))
    assert decode(encoded.key, encoded.payload, 1000) == bytes(1000)
    with pytest.raises(ChunkCorruptError, match="1000"):
        decode(encoded.key, encoded.payload, 999)


def test_a_decompression_bomb_is_refused_by_its_declared_length() -> None:
    bomb = b"\xff\xff\xff\xff\x0f" + b"\xfe\x01\x00" * 100  # 4 GiB, says the varint
    key = bytes(16)
    with pytest.raises(ChunkCorruptError, match=r"4294967295 bytes .* at most 524288"):
        decode(key, xxtea_encrypt(bomb, key), CHUNK)


def test_a_payload_longer_than_any_chunk_is_refused_before_it_is_decrypted() -> None:
    with pytest.raises(ChunkCorruptError, match="too long"):
        decode(bytes(16), bytes(8 << 20), CHUNK)


@pytest.mark.parametrize("block", [b"", b"\x80", b"\x80" * 5, b"\x80" * 9 + b"\x01"])
def test_a_block_without_a_length_is_corrupt(block: bytes) -> None:
    with pytest.raises(ChunkCorruptError, match="length"):
        snappy.decompress(block, 100)


@given(block=st.binary(max_size=60))
def test_snappy_noise_never_exceeds_the_limit(block: bytes) -> None:
    with contextlib.suppress(ChunkCorruptError):
        assert len(snappy.decompress(block, 1000)) <= 1000


def test_the_cipher_length_must_lie_within_the_last_word() -> None:
    key = b"k" * 16
    for length, good in ((4, False), (5, True), (8, True), (9, False), (0xFFFFFFFF, False)):
        data = _encrypt_words(bytes(8) + length.to_bytes(4, "little"), key)
        if good:
            assert xxtea_decrypt(data, key) == bytes(length)
        else:
            with pytest.raises(ChunkCorruptError, match="length word"):
                decode(key, data, CHUNK)


def _encrypt_words(raw: bytes, key: bytes) -> bytes:
    """XXTEA over `raw` as it stands, its last word being whatever it is: found by inverting decryption."""
    import struct

    from tests.chunk.reference import DELTA, MASK, _mix

    words = list(struct.unpack(f"<{len(raw) // 4}I", raw))
    cipher_key = struct.unpack("<4I", key)
    for turn in range(1, 6 + 52 // len(words) + 1):
        for p in range(len(words)):
            words[p] = (words[p] + _mix(words, cipher_key, p, turn * DELTA & MASK)) & MASK
    return struct.pack(f"<{len(words)}I", *words)


# -- the header ----------------------------------------------------------------------------


def test_a_payload_without_header_is_accepted() -> None:
    encoded = encode(Codec.SHA256_XXTEA, b"bare")
    assert decode(encoded.key, encoded.payload[16:], CHUNK) == b"bare"


def _body_whose_crc_has(digits: int) -> bytes:
    for number in range(1 << 22):
        body = number.to_bytes(4, "little") * 2
        if len(f"{zlib.crc32(body):02x}") == digits:
            return body
    raise AssertionError("no such body")


@pytest.mark.parametrize("digits", [8, 7, 6, 5])
@pytest.mark.parametrize("rest", [b"\0\0\0\0", b"abc123", b"\xff\xfe\xfd"])
def test_short_checksums_end_at_their_nul_whatever_follows(digits: int, rest: bytes) -> None:
    body = _body_whose_crc_has(digits)
    text = b"%x" % zlib.crc32(body)
    field = text if digits == 8 else (text + b"\0" + rest + bytes(8))[:8]
    assert bytes(header.strip(memoryview(b"10000000" + field + body))) == body


def test_the_shortest_checksum_has_two_digits() -> None:
    # CRC-32 of the empty text is zero: the only short one that needs no search.
    assert header.add(b"") == b"1000000000\0\0\0\0\0\0"
    assert bytes(header.strip(memoryview(header.add(b"")))) == b""
    single = b"100000000\0\0\0\0\0\0\0"
    assert bytes(header.strip(memoryview(single))) == single


@pytest.mark.parametrize(
    "start",
    [b"10000001", b"1000000\0", b"00000000"],
)
def test_other_magic_is_no_header(start: bytes) -> None:
    body = b"encrypted"
    payload = start + b"%08x" % zlib.crc32(body) + body
    assert bytes(header.strip(memoryview(payload))) == payload


@pytest.mark.parametrize("field", [b"deadbeef", b"+1234567", b" 1234567", b"1_234567", b"\0" * 8])
def test_a_header_whose_checksum_does_not_hold_is_left_alone(field: bytes) -> None:
    payload = b"10000000" + field + b"encrypted"
    assert bytes(header.strip(memoryview(payload))) == payload


def test_an_upper_case_checksum_is_no_header() -> None:
    body = b"1"  # its CRC-32 is 83dcefb7
    payload = b"10000000" + (b"%08x" % zlib.crc32(body)).upper() + body
    assert bytes(header.strip(memoryview(payload))) == payload


def test_importing_the_codec_loads_nothing_heavy() -> None:
    program = (
        "import sys, zerofs.chunk.codec; print({'cramjam', 'cryptography', 'hashlib'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
