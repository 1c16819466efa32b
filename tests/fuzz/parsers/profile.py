"""Access profiles: an error, or what is the same once it is written again.  Checksums are made right, too."""

from __future__ import annotations

import zlib

import xxhash

from zerofs.errors import ProfileError
from zerofs.prefetch.profile import HEADER, MOST_ENTRIES, Entry, Profile, check_fits, decode, encode

_CHECKSUM = 8  # bytes


def target(data: bytes) -> None:
    _decode(data)
    body = data[:-_CHECKSUM]
    _decode(body + xxhash.xxh3_64_intdigest(body).to_bytes(_CHECKSUM, "little"))
    if len(data) > HEADER.size:  # the columns themselves, packed
        head = list(HEADER.unpack_from(data))
        columns = zlib.compress(data[HEADER.size :])
        body = HEADER.pack(*head[:-1], len(columns)) + columns
        _decode(body + xxhash.xxh3_64_intdigest(body).to_bytes(_CHECKSUM, "little"))


def _decode(data: bytes) -> None:
    try:
        profile = decode(data, "profile")
    except ProfileError as error:
        assert "\n" not in str(error)
        return
    assert len(profile.entries) <= min(MOST_ENTRIES, 1100 * len(data))
    assert len({entry.number for entry in profile.entries}) == len(profile.entries)
    assert decode(encode(profile), "again") == profile
    try:
        check_fits(profile, profile.content_hash, 5, "profile")
    except ProfileError:
        return
    assert all(entry.number < 5 for entry in profile.entries)


def samples() -> list[bytes]:
    entries = tuple(Entry(number * 7 % 11, number * 1000, 1 + number % 2) for number in range(8))
    whole = encode(Profile(b"h" * 32, 3, entries))
    plain = b"\1\0\0\0" * 3 + b"\0" * 12 + b"\1\0" * 3
    return [whole, encode(Profile(bytes(32), 1, ())), whole[: HEADER.size] + plain]
