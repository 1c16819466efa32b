"""Several chunks at once: whatever goes together, each result is that of the chunk alone."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chunk.raw_flist import files
from tests.support.golden import Golden
from zerofs._fast import xxtea_encrypt
from zerofs.chunk import batch, header, snappy
from zerofs.chunk.batch import Request, decode_many, encode_many
from zerofs.chunk.codec import Codec, Encoded, decode, encode
from zerofs.errors import ChunkCorruptError, ChunkError, ChunkUnverifiableError

KNOWN = [Codec.SHA256_XXTEA, Codec.BLAKE2B128_XXTEA, Codec.BLAKE2B256_AESGCM]
CHUNK = 512 * 1024

sizes = st.one_of(
    st.integers(0, 700), st.integers(400, 4000), st.sampled_from([0, 1, 2048, 65_536, CHUNK // 4])
)


def plain_of(seed: int, size: int) -> bytes:
    """Bytes that compress, but not to nothing."""
    piece = random.Random(seed).randbytes(997) + bytes(400)
    return (piece * (size // len(piece) + 1))[:size]


def request_of(encoded: Encoded, size: int = CHUNK) -> Request:
    return Request(encoded.key, encoded.payload, size)


def one_by_one(requests: list[Request], *, allow_unverified: bool = False) -> list[bytes | ChunkError]:
    results: list[bytes | ChunkError] = []
    for request in requests:
        try:
            results.append(decode(*request, allow_unverified=allow_unverified))
        except ChunkError as error:
            results.append(error)
    return results


def told(results: list[bytes | ChunkError]) -> list[object]:
    """Results in a form that compares."""
    return [(type(each), str(each)) if isinstance(each, ChunkError) else each for each in results]


def test_golden_chunks_decode_as_they_do_alone(golden_flist: Golden) -> None:
    stored = dict(golden_flist.chunks())
    wanted = dict(chunk for _, chunks in files(golden_flist.flist) for chunk in chunks)
    requests = [Request(key, stored[chunk_id], CHUNK) for chunk_id, key in wanted.items()]
    assert len(requests) > 8
    assert decode_many(requests) == [decode(*request) for request in requests]


@settings(max_examples=80)
@given(chunks=st.lists(st.tuples(st.sampled_from(KNOWN), sizes), max_size=30))
def test_round_trips_of_any_mixture(chunks: list[tuple[Codec, int]]) -> None:
    plains = [plain_of(i, size) for i, (_, size) in enumerate(chunks)]
    encoded = [encode(codec, plain) for (codec, _), plain in zip(chunks, plains, strict=True)]
    assert decode_many([request_of(each) for each in encoded]) == plains


@pytest.mark.parametrize("codec", KNOWN)
@settings(max_examples=40)
@given(wanted=st.lists(sizes, max_size=20))
def test_encoding_many_equals_encoding_each(codec: Codec, wanted: list[int]) -> None:
    plains = [plain_of(i, size) for i, size in enumerate(wanted)]
    assert encode_many(codec, plains) == [encode(codec, plain) for plain in plains]
    assert encode_many(codec, [memoryview(plain) for plain in plains]) == encode_many(codec, plains)


@pytest.mark.parametrize("codec", KNOWN)
def test_whole_chunks_and_what_is_left_over(codec: Codec) -> None:
    plains = [plain_of(i, CHUNK) for i in range(9)] + [plain_of(9, 70_000), b"x"]
    encoded = encode_many(codec, plains)
    assert encoded == [encode(codec, plain) for plain in plains]
    assert decode_many([request_of(each) for each in encoded]) == plains


@pytest.mark.parametrize("codec", KNOWN)
def test_without_lanes_for_hashes_the_results_are_the_same(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plains = [plain_of(i, 3000) for i in range(9)]
    expected = encode_many(codec, plains)
    monkeypatch.setattr(batch, "_HASHES_IN_LANES", False)
    assert encode_many(codec, plains) == expected
    assert decode_many([request_of(each) for each in expected]) == plains


def test_an_unknown_codec_does_not_encode() -> None:
    for count in (1, 2):
        with pytest.raises(ValueError, match="no known hash"):
            encode_many(Codec.UNKNOWN, [b"x"] * count)


# -- what goes together --------------------------------------------------------------------


@pytest.fixture
def lanes_taken(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sizes of the blocks of every group that goes through the cipher together."""
    groups: list[list[int]] = []
    genuine = batch.decode_lanes

    def note(
        blocks: list[memoryview],
        keys: list[bytes],
        limits: list[int],
        counts: list[int],
        digest_size: int = 0,
    ) -> list[bytes | None]:
        sizes = iter([len(block) for block in blocks])
        groups.extend([next(sizes) for _ in range(count)] for count in counts)
        return genuine(blocks, keys, limits, counts, digest_size)

    monkeypatch.setattr(batch, "decode_lanes", note)
    return groups


def noise_requests(wanted: list[int]) -> list[Request]:
    noise = random.Random(1).randbytes
    return [request_of(encode(Codec.BLAKE2B128_XXTEA, noise(size))) for size in wanted]


@pytest.mark.parametrize(
    ("wanted", "lanes"),
    [
        ([], []),
        ([CHUNK], []),  # alone
        ([CHUNK, 1000], []),  # the short one would wait for nothing but its lane
        ([CHUNK, CHUNK], [2]),
        ([CHUNK] * 8, [8]),
        ([CHUNK] * 9, [8]),
        ([CHUNK] * 20, [8, 8, 4]),
        ([2000, CHUNK, 2000, 2000], [3]),
        ([1000] * 3, []),  # too little to gain anything
        ([1000] * 11, [8]),
        ([2000] * 4 + [CHUNK] * 4, [8]),
        ([100] * 50, []),
    ],
)
def test_chunks_of_about_one_length_go_together(
    wanted: list[int], lanes: list[int], lanes_taken: list[list[int]]
) -> None:
    requests = noise_requests(wanted)
    assert decode_many(requests) == one_by_one(requests)
    assert [len(group) for group in lanes_taken] == lanes


def test_each_length_has_its_own_lanes(lanes_taken: list[list[int]]) -> None:
    requests = noise_requests([5000, 100_000] * 8)
    decode_many(requests)
    assert [max(group) - min(group) for group in lanes_taken] == [0, 0]


# -- damage --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", KNOWN)
@settings(max_examples=60)
@given(count=st.integers(2, 12), which=st.integers(0, 11), where=st.integers(0, 10**9))
def test_damage_costs_one_chunk_and_is_told_as_it_is_alone(
    codec: Codec, count: int, which: int, where: int
) -> None:
    encoded = [encode(codec, plain_of(i, 3000 - 20 * i)) for i in range(count)]
    requests = [request_of(each) for each in encoded]
    damaged = bytearray(encoded[which % count].payload)
    damaged[where % len(damaged)] ^= 1 << where % 8
    requests[which % count] = requests[which % count]._replace(payload=bytes(damaged))
    results = decode_many(requests)
    assert told(results) == told(one_by_one(requests))
    assert [isinstance(each, bytes) for each in results].count(False) <= 1


def refused() -> dict[str, Request]:
    """Each a request that must be refused, by what is wrong with it."""
    good = encode(Codec.BLAKE2B128_XXTEA, plain_of(1, 3000))
    other = encode(Codec.BLAKE2B128_XXTEA, plain_of(2, 3000))
    fungi = encode(Codec.BLAKE2B256_AESGCM, plain_of(1, 3000))
    text = encode(Codec.SHA256_XXTEA, plain_of(1, 3000))
    bomb = b"\xff\xff\xff\xff\x0f" + b"\xfe\x01\x00" * 500
    return {
        "empty": request_of(good)._replace(payload=b""),
        "four bytes": request_of(good)._replace(payload=b"1234"),
        "no whole words": request_of(good)._replace(payload=good.payload + b"x"),
        "cut": request_of(good)._replace(payload=good.payload[:-4]),
        "noise": request_of(good)._replace(payload=bytes(len(good.payload))),
        "too long": request_of(good, 10),
        "longer than its place": request_of(good, 2999),
        "another chunk": request_of(good)._replace(payload=other.payload),
        "another chunk under its key": Request(
            good.key, xxtea_encrypt(snappy.compress(plain_of(2, 3000)), good.key), CHUNK
        ),
        "bomb": request_of(good)._replace(payload=xxtea_encrypt(bomb, good.key)),
        "no length": request_of(good)._replace(payload=xxtea_encrypt(b"\x80" * 700, good.key)),
        "fungi without tag": request_of(fungi)._replace(payload=fungi.payload[:-16]),
        "fungi too short": request_of(fungi)._replace(payload=b"x"),
        "header over noise": request_of(text)._replace(payload=header.add(bytes(640))),
        "unknown key": Request(b"k" * 40, good.payload, CHUNK),
        "no key": Request(b"", good.payload, CHUNK),
    }


@pytest.mark.parametrize("reason", refused())
def test_what_is_refused_alone_is_refused_among_others(reason: str) -> None:
    bad = refused()[reason]
    good = [request_of(encode(codec, plain_of(i, 3000))) for codec in KNOWN for i in range(4)]
    requests = [*good[:5], bad, *good[5:], bad]
    results = decode_many(requests)
    assert told(results) == told(one_by_one(requests))
    assert isinstance(results[5], ChunkCorruptError | ChunkUnverifiableError)
    assert results[5] is not results[-1], "one error raised by two would gather tracebacks"
    assert told(decode_many([bad])) == told(one_by_one([bad]))


def test_the_unverifiable_is_served_where_that_is_allowed() -> None:
    key = b"k" * 40
    requests = [
        Request(key, xxtea_encrypt(snappy.compress(plain_of(i, 3000)), key[:16]), CHUNK) for i in range(3)
    ]
    assert {type(each) for each in decode_many(requests)} == {ChunkUnverifiableError}
    assert decode_many(requests, allow_unverified=True) == [plain_of(i, 3000) for i in range(3)]


def test_an_upper_case_key_and_a_payload_without_header_go_along() -> None:
    encoded = [encode(Codec.SHA256_XXTEA, plain_of(i, 3000)) for i in range(4)]
    bare = Request(encoded[0].key, encoded[0].payload[header.SIZE :], CHUNK)
    block = snappy.compress(plain_of(1, 3000))
    upper = encoded[1].key.upper()
    requests = [
        bare,
        Request(upper, header.add(xxtea_encrypt(block, upper[:16])), CHUNK),
        *map(request_of, encoded[2:]),
    ]
    assert decode_many(requests) == [plain_of(i, 3000) for i in range(4)]


def test_importing_batches_loads_nothing_heavy() -> None:
    program = (
        "import sys, zerofs.chunk.batch; print({'cramjam', 'cryptography', 'hashlib'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
