from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.store.ids import id_digits, id_text, is_text
from zerofs.store.ranges import EVERYTHING, IdRange, parse_range, uncovered

HEX = "0123456789abcdefABCDEF"
prefixes = st.text(HEX, min_size=1, max_size=5)
ids = st.one_of(st.binary(min_size=1, max_size=40), st.binary(min_size=32, max_size=32))


def model(first: str, last: str, chunk_id: bytes) -> bool:
    """Whether an id lies in a range, said with numbers."""
    digits = chunk_id.hex() if not is_text(chunk_id) else chunk_id.decode()
    head = digits[: len(first)]
    if len(head) < len(first) or any(digit not in HEX for digit in head):
        return False
    return int(first, 16) <= int(head, 16) <= int(last, 16)


@given(prefixes, prefixes, ids)
def test_matching_equals_the_model(first: str, last: str, chunk_id: bytes) -> None:
    last = last.ljust(len(first), "f")[: len(first)]
    first, last = sorted((first, last), key=lambda text: int(text, 16))
    matched = parse_range(f"{first}:{last}").matches(id_digits(chunk_id))
    if all(letter in HEX for letter in id_digits(chunk_id)):
        assert matched == model(first, last, chunk_id)


@given(prefixes, st.binary(min_size=16, max_size=16))
def test_one_prefix_matches_what_begins_with_it(prefix: str, chunk_id: bytes) -> None:
    assert parse_range(prefix).matches(id_digits(chunk_id)) == chunk_id.hex().startswith(prefix.lower())


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("00:7F", [b"\x00" * 16, b"\x7f" + b"\xff" * 15, b"7F" * 32], [b"\x80" * 16, b"80" * 32]),
        ("80:ff", [b"\x80" * 16, b"FF" * 32], [b"\x7f" * 16]),
        ("123", [b"\x12\x3f" * 8, b"123" + b"0" * 61], [b"\x12\x4f" * 8, b"12"]),
        ("000:FFF", [b"\0" * 16, b"\xff" * 32, b"ab" * 32], []),
        ("10:59", [b"\x10" * 16, b"\x59" * 16, b"\x1f" * 16], [b"\x0f" * 16, b"\x5a" * 16]),
    ],
)
def test_ranges_are_inclusive(text: str, inside: list[bytes], outside: list[bytes]) -> None:
    ids = parse_range(text)
    assert all(ids.matches(id_digits(each)) for each in inside)
    assert not any(ids.matches(id_digits(each)) for each in outside)


@pytest.mark.parametrize(
    "text", ["", ":", "0:", ":f", "0:ff", "f:0", "xy", "0x10:0x20", "00-7f", "1:2:3", "١"]
)
def test_bad_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="range"):
        parse_range(text)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=6))
def test_gaps_are_found(pairs: list[tuple[int, int]]) -> None:
    ranges = [IdRange(f"{min(pair):02x}", f"{max(pair):02x}") for pair in pairs]
    free = [byte for byte in range(256) if not any(each.matches(f"{byte:02x}") for each in ranges)]
    gap = uncovered(ranges)
    if not free:
        assert gap is None
    else:
        assert gap is not None
        assert gap.matches(f"{free[0]:02x}00") or gap.matches(f"{free[0]:02x}")


def test_gaps_between_ranges_of_different_width() -> None:
    assert uncovered([parse_range("0:7"), parse_range("800:fff")]) is None
    assert uncovered([parse_range("0:7"), parse_range("801:fff")]) == IdRange("800", "800")
    assert uncovered([EVERYTHING]) is None
    assert uncovered([]) == IdRange("0", "f")


@given(st.binary(min_size=1, max_size=80))
def test_an_ids_text_never_climbs(chunk_id: bytes) -> None:
    text = id_text(chunk_id)
    assert "/" not in text and not text.startswith(".") and "\0" not in text
    assert text in (chunk_id.hex(), chunk_id.decode("latin-1"))


def test_text_ids_stand_for_themselves() -> None:
    assert id_text(b"ab" * 32) == "ab" * 32
    assert id_text(bytes.fromhex("ab" * 16)) == "ab" * 16
    assert id_text(b"..") == "2e2e"
    assert id_text(b"../../etc/passwd") == b"../../etc/passwd".hex()
    assert id_text(b"sixteen-bytes-id") == b"sixteen-bytes-id".hex()
    assert id_text(b"chunk-1.bin") == "chunk-1.bin"
