"""Profile files: what goes in comes out, and nothing else comes out."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from zerofs.errors import ProfileError
from zerofs.flist.layout import MAX_PROFILE
from zerofs.prefetch.profile import (
    HEADER,
    MAGIC,
    MOST_ENTRIES,
    Entry,
    Profile,
    check_fits,
    decode,
    encode,
    read_profile,
    write_profile,
)

HASH = bytes(range(32))
SMALL = Profile(HASH, 2, (Entry(7, 0, 2), Entry(3, 15, 1), Entry(0xFFFFFFFF, 0xFFFFFFFF, 2)))

entries = st.lists(
    st.builds(Entry, st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.integers(1, 9)),
    unique_by=lambda entry: entry.number,
    max_size=200,
)


def forged(
    body: bytes, *, version: int = 1, count: int = 1, recordings: int = 1, size: int | None = None
) -> bytes:
    """A file with a checksum that holds, whatever else it says."""
    head = HEADER.pack(MAGIC, version, 0, HASH, recordings, count, len(body) if size is None else size)
    whole = head + body
    return whole + xxhash.xxh3_64_intdigest(whole).to_bytes(8, "little")


def body(*rows: tuple[int, int, int]) -> bytes:
    numbers, times, counts = zip(*rows, strict=True)
    return zlib.compress(struct.pack(f"<{len(rows)}I{len(rows)}I{len(rows)}H", *numbers, *times, *counts))


@given(entries)
def test_what_is_written_is_read(rows: list[Entry]) -> None:
    profile = Profile(HASH, 9, tuple(rows))
    assert decode(encode(profile), "x") == profile


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.profile"
    write_profile(SMALL, path)
    assert read_profile(path) == SMALL
    assert [each.name for each in tmp_path.iterdir()] == ["x.profile"]


def test_a_profile_of_thousands_of_chunks_is_small() -> None:
    profile = Profile(HASH, 1, tuple(Entry(number * 3, number) for number in range(10_000)))
    assert len(encode(profile)) < 20_000


def test_the_largest_fits_its_bound() -> None:
    rows = tuple(Entry(number * 2654435761 & 0xFFFFFFFF, number * 7919) for number in range(MOST_ENTRIES))
    assert len(encode(Profile(HASH, 1, rows))) <= MAX_PROFILE


def test_every_truncation_is_refused() -> None:
    data = encode(SMALL)
    for length in range(len(data)):
        with pytest.raises(ProfileError, match=r"^here: "):
            decode(data[:length], "here")


def test_every_flipped_bit_is_refused() -> None:
    data = encode(SMALL)
    for position in range(len(data)):
        with pytest.raises(ProfileError):
            decode(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :], "x")


def test_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(ProfileError, match="version 2 of profiles is not known"):
        decode(forged(b"whatever", version=2), "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (forged(body((1, 0, 1)), count=0xFFFFFFFF), "over the bound"),
        (forged(body((1, 0, 1)), count=MOST_ENTRIES), "the size that it says"),
        (forged(body((1, 0, 1), (2, 0, 1))), "the size that it says"),
        (forged(zlib.compress(bytes(1 << 30))), "the size that it says"),
        (forged(body((1, 0, 1)) + b"more"), "the size that it says"),
        (forged(b"no zlib"), "damaged"),
        (forged(body((1, 0, 1)), size=0xFFFFFFFF), "cut off or has grown"),
        (forged(body((1, 0, 2))), "a count is out of range"),
        (forged(body((1, 0, 0))), "a count is out of range"),
        (forged(body((1, 0, 1), (0, 0, 1)), count=2), "twice"),
        (b"", "not a profile"),
        (b"x" * 1000, "not a profile"),
    ],
)
def test_hostile_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ProfileError, match=reason):
        decode(data, "x")


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.booleans())
def test_no_bytes_do_harm(data: bytes, count: int, recordings: int, squeeze: bool) -> None:
    for each in (
        data,
        MAGIC + data,
        forged(zlib.compress(data) if squeeze else data, count=count, recordings=recordings),
        forged(zlib.compress(data), count=len(data) // 10, recordings=recordings),
    ):
        try:
            decode(each, "x")
        except ProfileError as error:
            assert str(error).startswith("x: ")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(MAX_PROFILE + 1))
    with pytest.raises(ProfileError, match="not a profile"):
        read_profile(path)


def test_a_profile_must_fit_its_flist() -> None:
    profile = Profile(HASH, 1, (Entry(9, 0),))
    check_fits(profile, HASH, 10, "x")
    with pytest.raises(ProfileError, match="another flist"):
        check_fits(profile, bytes(32), 10, "x")
    with pytest.raises(ProfileError, match="does not have"):
        check_fits(profile, HASH, 9, "x")
