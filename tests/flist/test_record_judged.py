"""The decoder of records against pycapnp: on sound records, on damaged ones, on each rule of the encoding."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flist.judge import SCHEMA, judge_aci, judge_directory
from zerofs.errors import FlistCorruptError
from zerofs.flist import _record
from zerofs.flist.model import Directory, Entry
from zerofs.flist.record import Aci, decode_aci, decode_directory
from zerofs.flist.tally import Tally

MUTATIONS = 2500  # of each sound record

texts = st.binary(max_size=40)
numbers = st.integers(0, 2**32 - 1)
shorts = st.integers(0, 2**16 - 1)
blocks = st.lists(st.fixed_dictionaries({"hash": texts, "key": texts}), max_size=4)
values = st.one_of(
    st.fixed_dictionaries({"dir": st.fixed_dictionaries({}, optional={"key": texts})}),
    st.fixed_dictionaries(
        {"file": st.fixed_dictionaries({}, optional={"blockSize": shorts, "blocks": blocks})}
    ),
    st.fixed_dictionaries({"link": st.fixed_dictionaries({}, optional={"target": texts})}),
    st.fixed_dictionaries(
        {"special": st.fixed_dictionaries({}, optional={"type": st.integers(0, 6), "data": texts})}
    ),
)
inodes = st.fixed_dictionaries(
    {"attributes": values},
    optional={
        "name": texts,
        "size": st.integers(0, 2**64 - 1),
        "aclkey": texts,
        "modificationTime": numbers,
        "creationTime": numbers,
    },
)
directories = st.fixed_dictionaries(
    {"contents": st.lists(inodes, max_size=8)},
    optional={"name": texts, "aclkey": texts, "modificationTime": numbers, "size": numbers},
)
int64s = st.integers(-(2**63), 2**63 - 1)
acis = st.fixed_dictionaries(
    {}, optional={"uname": texts, "gname": texts, "mode": shorts, "uid": int64s, "gid": int64s, "id": numbers}
)


def remember(key: bytes) -> tuple[int, int, int]:
    """An owner that tells what it was asked for."""
    return hash(key), len(key), 0


def outcome(decoder: Callable[..., Directory], record: bytes) -> object:
    tally = Tally()
    try:
        return decoder(record, remember, tally), tally.counts
    except FlistCorruptError:
        return None


def aci_outcome(decoder: Callable[[bytes], Aci], record: bytes) -> object:
    try:
        return decoder(record)
    except FlistCorruptError:
        return None


def agree(record: bytes) -> None:
    assert outcome(decode_directory, record) == outcome(judge_directory, record)
    assert aci_outcome(decode_aci, record) == aci_outcome(judge_aci, record)


def built(type: Any, content: dict[str, Any], first: int, sizes: Sequence[int] = ()) -> bytes:
    """The record of `content` in segments of (at least) those many words; in one where there are no `sizes`."""
    if not sizes:
        return bytes(type.new_message(**content).to_bytes())
    left = list(sizes)

    def allocate(words: int) -> bytearray:
        return bytearray(8 * max(words, left.pop() if left else 1))

    message = type.new_message(num_first_segment_words=first, allocate_seg_callable=allocate)
    message.from_dict(content)
    return bytes(message.to_bytes())


segment_sizes = st.lists(st.integers(1, 12), max_size=30)


@settings(max_examples=300, deadline=None)
@given(directories, st.integers(1, 12), segment_sizes)
def test_sound_directories(content: dict[str, Any], first: int, sizes: list[int]) -> None:
    record = built(SCHEMA.Dir, content, first, sizes)
    assert outcome(decode_directory, record) is not None
    agree(record)


@settings(max_examples=100, deadline=None)
@given(acis, st.integers(1, 12), segment_sizes)
def test_sound_acis(content: dict[str, Any], first: int, sizes: list[int]) -> None:
    record = built(SCHEMA.ACI, content, first, sizes)
    assert aci_outcome(decode_aci, record) is not None
    agree(record)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 64)), max_size=40))
def test_any_words(words: list[int]) -> None:
    agree(struct.pack(f"<{len(words)}Q", *words))
    agree(struct.pack("<II", 0, len(words)) + struct.pack(f"<{len(words)}Q", *words))


CONTENT = {
    "aclkey": b"root\0",
    "modificationTime": 7,
    "contents": [
        {"name": b"d\0", "attributes": {"dir": {"key": b"k" * 64 + b"\0"}}},
        {
            "name": b"f\0",
            "size": 1_000_000,
            "aclkey": b"0123456789abcdef\0",
            "attributes": {
                "file": {
                    "blockSize": 128,
                    "blocks": [{"hash": b"h" * 16, "key": b"k" * 16}, {"hash": b"i" * 16, "key": b"l" * 16}],
                }
            },
        },
        {"name": b"l\0", "attributes": {"link": {"target": b"../f\0"}}},
        {"name": b"c\0", "attributes": {"special": {"type": 2, "data": b"1,3"}}},
    ],
}
SOUND = {
    "one segment": built(SCHEMA.Dir, CONTENT, 0),
    "many segments": built(SCHEMA.Dir, CONTENT, 1, [1] * 100),
    "some segments": built(SCHEMA.Dir, CONTENT, 3, [9, 2, 30, 1, 7]),
    "aci": built(SCHEMA.ACI, {"uname": b"root\0", "gname": b"wheel\0", "mode": 0o644, "uid": 0}, 0),
}


def mutated(record: bytes, rng: random.Random) -> bytes:
    """`record` with one to four things wrong: bits, bytes, pointers, its end."""
    damaged = bytearray(record)
    for _ in range(rng.randint(1, 4)):
        word = rng.randrange(len(damaged) // 8 or 1) * 8
        match rng.randrange(5):
            case 0:
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            case 1:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            case 2:  # another pointer, not far from a sensible one
                low = rng.randrange(-30, 200) << 2 & 0xFFFFFFFF | rng.randrange(4)
                high = rng.choice([rng.randrange(8), rng.randrange(40) << 3 | rng.randrange(8), 3 << 16 | 3])
                damaged[word : word + 8] = struct.pack("<II", low, high)
            case 3:
                other = rng.randrange(len(damaged) // 8 or 1) * 8
                damaged[word : word + 8] = damaged[other : other + 8]
            case 4 if rng.random() < 0.1:
                del damaged[rng.randrange(8, len(damaged)) :]
    return bytes(damaged)


@pytest.mark.parametrize("record", SOUND.values(), ids=SOUND)
def test_damaged_records(record: bytes) -> None:
    rng = random.Random(record)
    unharmed = 0
    for _ in range(MUTATIONS):
        damaged = mutated(record, rng)
        agree(damaged)
        unharmed += outcome(decode_directory, damaged) is not None
    assert 0 < unharmed < MUTATIONS


# -- rule by rule --------------------------------------------------------------------------


def framed(*segments: Sequence[int]) -> bytes:
    table = struct.pack(f"<{1 + len(segments)}I", len(segments) - 1, *map(len, segments))
    table += bytes(-len(table) % 8)
    return table + b"".join(struct.pack(f"<{len(words)}Q", *words) for words in segments)


def structure(offset: int, data: int, pointers: int) -> int:
    return (offset << 2 & 0xFFFFFFFF) | data << 32 | pointers << 48


def listing(offset: int, code: int, count: int) -> int:
    return (offset << 2 & 0xFFFFFFFF) | 1 | code << 32 | count << 35


def far(segment: int, word: int, double: bool = False) -> int:
    return 2 | double << 2 | word << 3 | segment << 32


def text(content: bytes) -> int:
    return int.from_bytes(content.ljust(8, b"\0"), "little")


ACLKEY = [structure(0, 0, 5), 0, 0, 0, 0]  # a root whose last pointer is the key of its ACI
CONTENTS = [structure(0, 0, 3), 0, 0]  # a root whose last pointer is the list of inodes
NAME = text(b"name")

RULES = {
    "no word": b"",
    "less than a word": b"\0" * 7,
    "a frame of nothing": framed([]),
    "no root": framed([0]),
    "table of segments cut off": struct.pack("<II", 9, 1),
    "table of segments that wraps": struct.pack("<IIQ", 0xFFFFFFFF, 1, 0),
    "segment cut off": struct.pack("<II", 0, 2) + bytes(8),
    "bytes after the end": framed([0]) + b"more",
    "half a word after the end": framed([*ACLKEY, listing(0, 2, 5), NAME])[:-3],
    "root without fields": framed([structure(0, 0, 0)]),
    "root without fields, anywhere": framed([structure(0x0FFFFFFF, 0, 0)]),
    "root is a list": framed([listing(0, 2, 0)]),
    "root is a capability": framed([3]),
    "root outside": framed([structure(0, 1, 0)]),
    "root before its segment": framed([structure(-2, 1, 0)]),
    "root is the pointer itself": framed([structure(-1, 1, 0)]),
    "text": framed([*ACLKEY, listing(0, 2, 5), NAME]),
    "text without its NUL": framed([*ACLKEY, listing(0, 2, 4), NAME]),
    "text of no bytes": framed([*ACLKEY, listing(0, 2, 0)]),
    "text outside": framed([*ACLKEY, listing(0, 2, 9), NAME]),
    "text of no bytes outside": framed([*ACLKEY, listing(99, 2, 0)]),
    "text of other elements": framed([*ACLKEY, listing(0, 3, 2), NAME]),
    "text that is a struct": framed([*ACLKEY, structure(0, 1, 0), NAME]),
    "far text": framed([*ACLKEY, far(1, 0)], [listing(0, 2, 5), NAME]),
    "far text in the same segment": framed([*ACLKEY, far(0, 7), NAME, listing(-2, 2, 5)]),
    "far text to no segment": framed([*ACLKEY, far(2, 0)], [listing(0, 2, 5), NAME]),
    "far text beyond a segment": framed([*ACLKEY, far(1, 2)], [listing(0, 2, 5), NAME]),
    "far text to nothing": framed([*ACLKEY, far(1, 0)], [0, NAME]),
    "far to far": framed([*ACLKEY, far(1, 0)], [far(1, 1), listing(0, 2, 5), NAME]),
    "far to itself": framed([*ACLKEY, far(0, 5)]),
    "double far text": framed([*ACLKEY, far(1, 0, True)], [far(2, 0), listing(0, 2, 5)], [NAME]),
    "double far, its tag has an offset": framed([*ACLKEY, far(1, 0, True)], [far(2, 0), listing(7, 2, 5)], [NAME]),
    "double far, half of the pad outside": framed([*ACLKEY, far(1, 0, True)], [far(2, 0)], [NAME]),
    "double far to no segment": framed([*ACLKEY, far(1, 0, True)], [far(3, 0), listing(0, 2, 5)], [NAME]),
    "double far beyond a segment": framed([*ACLKEY, far(1, 0, True)], [far(2, 1), listing(0, 2, 5)], [NAME]),
    "double far, no far in its pad": framed([*ACLKEY, far(1, 0, True)], [structure(0, 1, 0), listing(0, 2, 5), NAME]),
    "double far, double again": framed([*ACLKEY, far(1, 0, True)], [far(2, 0, True), listing(0, 2, 5)], [NAME]),
    "double far, tag of nothing": framed([*ACLKEY, far(1, 0, True)], [far(2, 0), 0], [NAME]),
    "double far root": framed([far(1, 0, True)], [far(2, 0), structure(0, 2, 0)], [0, 7]),
    "inodes": framed([*CONTENTS, listing(0, 7, 3), structure(1, 2, 1), 0, 0, listing(0, 2, 5), NAME]),
    "inodes, newer by a word": framed(
        [*CONTENTS, listing(0, 7, 8), structure(1, 4, 4), 0, 0, 0, 99, listing(3, 2, 5), 0, 0, 0, NAME]
    ),
    "inodes overrun their list": framed([*CONTENTS, listing(0, 7, 3), structure(2, 2, 1), *[0] * 6]),
    "inodes under a tag that is no struct": framed([*CONTENTS, listing(0, 7, 3), listing(1, 2, 1), 0, 0, 0]),
    "inodes without a size": framed([*CONTENTS, listing(0, 7, 0), structure(100, 0, 0)]),
    "inodes without a size, beyond the budget": framed([*CONTENTS, listing(0, 7, 0), structure(2**29, 0, 0)]),
    "inodes that are void": framed([*CONTENTS, listing(0, 0, 9)]),
    "inodes that are void, beyond the budget": framed([*CONTENTS, listing(0, 0, 2**29 - 1)]),
    "inodes that are bits": framed([*CONTENTS, listing(0, 1, 9), 0]),
    "inodes that are bytes": framed([*CONTENTS, listing(0, 2, 5), NAME]),
    "inodes that are words": framed([*CONTENTS, listing(0, 5, 1), 5]),
    "inodes that are pointers": framed([*CONTENTS, listing(0, 6, 2), listing(1, 2, 5), 0, NAME]),
    "inodes that are bytes, outside": framed([*CONTENTS, listing(0, 2, 9), NAME]),
    "inodes that are a struct": framed([*CONTENTS, structure(0, 1, 0), 0]),
    "no inodes": framed([*CONTENTS, listing(0, 7, 0), structure(0, 3, 3)]),
    "no room for the tag": framed([*CONTENTS, listing(0, 7, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("record", RULES.values(), ids=RULES)
def test_rules(record: bytes) -> None:
    agree(record)


def test_rules_reach_both_ends() -> None:
    decoded = {name for name, record in RULES.items() if outcome(decode_directory, record) is not None}
    assert {"text", "far text", "double far text", "inodes", "inodes, newer by a word"} <= decoded
    assert len(RULES) - len(decoded) > 20
    shown = decode_directory(RULES["inodes, newer by a word"], remember, Tally())
    assert [entry.name for entry in shown.entries] == [b"name"]
    assert shown.entries == [Entry(b"name", *shown.entries[0][1:])]


def test_what_may_be_followed_is_bounded_to_the_word() -> None:
    """Names that are all the same 509 words: as many as four times the record's size, and not one word more."""
    sound = []
    for count in range(1, 20):
        names = [listing(count - 1 - number, 2, 509 * 8) for number in range(count)]
        record = framed([*CONTENTS, listing(0, 6, count), *names, *[NAME] * 509])
        spent = 1 + 3 + count + 509 * count  # the root's pointer, the root, the list, the names
        sound.append(outcome(decode_directory, record) is not None)
        assert sound[-1] == (spent <= len(record) // 2 + 1024)
        agree(record)
    assert sound[0] and not sound[-1]


def test_places_of_fields_are_those_of_the_schema() -> None:
    source = Path(_record.__file__).with_name("_record.pyx").read_text()
    places = {name: int(value) for name, value in re.findall(r"^    ([A-Z]+_[A-Z_]+) = (\d+)$", source, re.M)}
    found = {}
    structs = {"DIR": SCHEMA.Dir, "INODE": SCHEMA.Inode, "SUBDIR": SCHEMA.SubDir, "LINK": SCHEMA.Link}
    structs |= {"FILE": SCHEMA.File, "BLOCK": SCHEMA.FileBlock, "SPECIAL": SCHEMA.Special, "ACI": SCHEMA.ACI}
    short = {"MODIFICATION_TIME": "MTIME", "CREATION_TIME": "CTIME"}
    widths = {"data": 1, "list": 1, "uint16": 2, "uint32": 4, "uint64": 8, "int64": 8}
    for prefix, type in structs.items():
        for field in type.schema.node.struct.fields:
            if field.which() == "slot":
                name = re.sub("([A-Z])", r"_\1", field.name).upper()
                found[f"{prefix}_{short.get(name, name)}"] = (
                    field.slot.offset * widths[field.slot.type.which()]
                )
    union = SCHEMA.Inode.schema.fields["attributes"].schema.node.struct
    found["INODE_WHICH"] = union.discriminantOffset * 2
    found |= {f"WHICH_{field.name.upper()}": field.discriminantValue for field in union.fields}
    (found["INODE_VALUE"],) = {field.slot.offset for field in union.fields}
    assert len(places) > 20
    assert places == {name: found[name] for name in places}
