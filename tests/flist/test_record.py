"""The codec of directory records: exact on what is right, calm on what is not."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flist.samples import CHUNK, PLAIN, SCHEMA, key_of
from zerofs.errors import FlistCorruptError, FlistTooLargeError
from zerofs.flist import record as codec
from zerofs.flist.model import CHUNK_SIZE, Attributes, ChunkRef, Directory, Entry, Kind
from zerofs.flist.record import Aci, decode_aci, decode_directory, encode_aci, encode_directory
from zerofs.flist.tally import BAD_NAME, DUPLICATE, Tally

PACKAGE = Path(codec.__file__).parent

times = st.integers(0, 2**32 - 1)
names = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
modes = st.integers(0, 0o7777)
ids = st.integers(0, 2**32 - 2)
attributes = st.builds(Attributes, modes, ids, ids, times, times)
chunks = st.builds(ChunkRef, st.binary(max_size=70), st.binary(max_size=70))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    name, owner = draw(names), draw(attributes)
    kind = draw(st.sampled_from(Kind))
    if kind == Kind.FILE:
        held = tuple(draw(st.lists(chunks, max_size=4)))
        size = draw(st.integers(max(len(held) - 1, 0) * CHUNK_SIZE + bool(held), 2**63 - 1))
        return Entry(name, kind, owner, size, chunks=held)
    if kind == Kind.DIR:
        return Entry(name, kind, owner, 4096)
    if kind == Kind.LINK:
        target = draw(st.binary(min_size=1, max_size=300).filter(lambda target: b"\0" not in target))
        return Entry(name, kind, owner, len(target), target=target)
    if kind in (Kind.CHARDEV, Kind.BLOCK):
        return Entry(name, kind, owner, device=(draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))))
    return Entry(name, kind, owner)


directories = st.builds(
    Directory, attributes, st.lists(entries(), max_size=12, unique_by=lambda entry: entry.name)
)


class Owners:
    """Keeps attributes by a key of its own, as the ACIs of a database do."""

    def __init__(self) -> None:
        self._known: dict[bytes, Attributes] = {}

    def key(self, kind: Kind, attributes: Attributes) -> bytes:
        key = b"%o %d %d" % (attributes.mode, attributes.uid, attributes.gid)
        self._known[key] = attributes
        return key

    def owner(self, key: bytes) -> tuple[int, int, int]:
        return self._known.get(key, PLAIN)[:3]


def key(path: bytes) -> bytes:
    return key_of(path).encode()


def decode(record: bytes, tally: Tally | None = None) -> Directory:
    return decode_directory(record, Owners().owner, tally or Tally())


@settings(max_examples=150, deadline=None)
@given(directories)
def test_what_is_encoded_decodes_to_the_same(directory: Directory) -> None:
    owners = Owners()
    record = encode_directory(b"some/where", directory, key, owners.key, Tally())
    decoded = decode_directory(record, owners.owner, Tally())
    assert [entry._replace(key=b"") for entry in decoded.entries] == directory.entries
    assert decoded.attributes == directory.attributes
    for entry in decoded.entries:
        assert entry.key == (key(b"some/where/" + entry.name) if entry.kind == Kind.DIR else b"")


@settings(max_examples=200, deadline=None)
@given(directories, st.data())
def test_damage_is_an_error_or_another_record(directory: Directory, data: st.DataObject) -> None:
    record = bytearray(encode_directory(b"", directory, key, Owners().key, Tally()))
    for position in data.draw(st.lists(st.integers(0, len(record) - 1), max_size=8)):
        record[position] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(record)))
    try:
        decoded = decode(bytes(record[:length]))
    except FlistCorruptError as error:
        assert "\n" not in str(error)
    else:
        assert len({entry.name for entry in decoded.entries}) == len(decoded.entries)


@given(st.binary(max_size=400))
def test_noise_is_an_error_or_a_record(noise: bytes) -> None:
    for decoder in (decode, decode_aci):
        try:
            decoder(noise)
        except FlistCorruptError:
            continue


@given(modes, st.integers(-1, 2**40), st.binary(max_size=40).filter(lambda name: b"\0" not in name))
def test_aci_round_trip(mode: int, uid: int, name: bytes) -> None:
    aci = Aci(name, name, mode, uid, -1)
    assert decode_aci(encode_aci(aci)) == aci


def test_the_two_schemas_are_one() -> None:
    text, data = ((PACKAGE / name).read_text() for name in ("flist.capnp", "flist_bytes.capnp"))
    text = re.sub(
        r"enum Type \{.*?\}", "", text.replace(":Text", ":Data").replace(":Type", ":UInt16"), flags=re.S
    )
    assert _words(text) == _words(data)


def _words(schema: str) -> list[str]:
    schema = re.sub(r"#.*|^@0x.*", "", schema, flags=re.M)
    return schema.split()


def test_field_for_field_what_the_published_schema_says() -> None:
    entry = Entry(b"name", Kind.FILE, PLAIN._replace(mtime=5, ctime=6), 7, chunks=(CHUNK,))
    directory = Directory(PLAIN._replace(mtime=3, ctime=4), [entry])
    record = encode_directory(b"parent/here", directory, key, Owners().key, Tally())
    with SCHEMA.Dir.from_bytes(record) as read:
        assert (read.name, read.location, read.parent) == ("here", "parent/here", key_of(b"parent"))
        assert (read.size, read.modificationTime, read.creationTime) == (4096, 3, 4)
        (inode,) = read.contents
        assert (inode.name, inode.size, inode.modificationTime, inode.creationTime) == ("name", 7, 5, 6)
        assert inode.attributes.file.blockSize == 128
        assert [(block.hash, block.key) for block in inode.attributes.file.blocks] == [CHUNK]


def message(*contents: dict[str, Any], **fields: Any) -> Any:
    return SCHEMA.Dir.new_message(contents=list(contents), **fields)


def test_many_segments_with_far_pointers() -> None:
    builder = SCHEMA.Dir.new_message(
        num_first_segment_words=4, allocate_seg_callable=lambda words: bytearray(words * 8)
    )
    contents = builder.init("contents", 700)
    for number, inode in enumerate(contents):
        inode.name = f"file {number}"
        inode.attributes.init("file").blockSize = 128
    record = builder.to_bytes()
    assert struct.unpack_from("<I", record)[0] + 1 > 600  # segments
    assert [entry.name for entry in decode(record).entries] == [b"file %d" % n for n in range(700)]


def test_megabytes_of_record() -> None:
    many = [Entry(b"%0100d" % number, Kind.FILE, PLAIN, 1, chunks=(CHUNK,)) for number in range(40_000)]
    record = encode_directory(b"", Directory(PLAIN, many), key, Owners().key, Tally())
    assert len(record) > 8 << 20
    assert len(decode(record).entries) == 40_000


def test_an_unknown_kind_is_skipped_and_counted() -> None:
    link = {"link": {"target": "t"}}
    record = message({"name": "new", "attributes": link}, {"name": "old", "attributes": link}).to_bytes()
    other = message({"name": "new", "attributes": {"dir": {"key": "t"}}}, {"name": "old", "attributes": link})
    tally = Tally()
    changed = _patched(record, other.to_bytes(), struct.pack("<H", 9))
    assert [entry.name for entry in decode(changed, tally).entries] == [b"old"]
    assert tally.counts == {codec.UNKNOWN_KIND: 1}


def _patched(record: bytes, other: bytes, value: bytes) -> bytes:
    """`record` with `value` in the only place where it differs from `other`."""
    (offset,) = [n for n, (a, b) in enumerate(zip(record, other, strict=True)) if a != b]
    return record[:offset] + value + record[offset + len(value) :]


@pytest.mark.parametrize("number", [4, 7, 65535])
def test_an_unknown_special_is_skipped_and_counted(number: int) -> None:
    record, other = (
        message({"name": "a", "attributes": {"special": {"type": type}}}).to_bytes()
        for type in ("chardev", "socket")
    )
    tally = Tally()
    assert decode(_patched(record, other, struct.pack("<H", number)), tally).entries == []
    assert tally.counts == {codec.UNKNOWN_KIND: 1}


@pytest.mark.parametrize(
    ("type", "data", "kind", "device", "counted"),
    [
        ("fifopipe", b"(nothing)", Kind.FIFO, (0, 0), 0),
        ("socket", b"1,3", Kind.SOCKET, (0, 0), 0),
        ("chardev", b"1,3", Kind.CHARDEV, (1, 3), 0),
        ("block", b"8,16\0", Kind.BLOCK, (8, 16), 0),
        ("block", b"", Kind.BLOCK, (0, 0), 1),
        ("block", b"-1,2", Kind.BLOCK, (0, 0), 1),
        ("block", b"4096,0", Kind.BLOCK, (0, 0), 1),
        ("chardev", b"9" * 5000 + b",1", Kind.CHARDEV, (0, 0), 1),
    ],
)
def test_specials(type: str, data: bytes, kind: Kind, device: tuple[int, int], counted: int) -> None:
    tally = Tally()
    record = message({"name": "a", "attributes": {"special": {"type": type, "data": data}}}).to_bytes()
    (entry,) = decode(record, tally).entries
    assert (entry.kind, entry.device) == (kind, device)
    assert tally.counts.total() == counted


def test_names_that_no_directory_can_hold() -> None:
    tally = Tally()
    bad = ["", ".", "..", "a/b", "a\0b", "n" * 256]
    record = message(*({"name": name, "attributes": {"file": {}}} for name in [*bad, "fine"])).to_bytes()
    assert [entry.name for entry in decode(record, tally).entries] == [b"fine"]
    assert tally.counts == {BAD_NAME: len(bad)}


def test_the_first_of_equal_names_wins() -> None:
    tally = Tally()
    inodes = [{"name": "a", "size": size, "attributes": {"file": {}}} for size in (1, 2, 3)]
    (entry,) = decode(message(*inodes).to_bytes(), tally).entries
    assert entry.size == 1
    assert tally.counts == {DUPLICATE: 2}


def test_sizes_are_bounded_and_no_chunk_is_over() -> None:
    blocks = [{"hash": b"h", "key": b"k"}] * 3
    record = message(
        {"name": "huge", "size": 2**64 - 1, "attributes": {"file": {"blockSize": 65535, "blocks": blocks}}},
        {
            "name": "small",
            "size": CHUNK_SIZE + 1,
            "attributes": {"file": {"blockSize": 128, "blocks": blocks}},
        },
        {"name": "none", "size": 0, "attributes": {"file": {"blockSize": 128, "blocks": blocks}}},
        {"name": "no block size", "size": 5, "attributes": {"file": {"blocks": blocks}}},
    ).to_bytes()
    huge, small, none, unsized = decode(record).entries
    assert (huge.size, huge.block_size, len(huge.chunks)) == (2**63 - 1, 65535 * 4096, 3)
    assert (len(small.chunks), len(none.chunks)) == (2, 0)
    assert (unsized.block_size, len(unsized.chunks)) == (CHUNK_SIZE, 1)


def test_a_small_record_cannot_unfold_into_a_large_one() -> None:
    """Every name points at the same 1,000 bytes: 4 MB of names in 200 kB."""
    builder = SCHEMA.Dir.new_message(num_first_segment_words=1 << 17)
    contents = builder.init("contents", 4000)
    for inode in contents:
        inode.attributes.init("file")
    contents[0].name = "a" * 999
    record = bytearray(builder.to_bytes())
    words = struct.unpack(f"<{len(record) // 8}Q", record)
    text = words.index(int.from_bytes(b"a" * 8, "little"))
    first = next(n for n, word in enumerate(words) if word >> 32 == 1000 << 3 | 2)
    for inode_pointer in range(first + 6, first + 4000 * 6, 6):  # an inode has six words
        offset = (text - inode_pointer - 1) << 2 & 0xFFFFFFFF
        struct.pack_into("<Q", record, inode_pointer * 8, offset | 1 | (1000 << 3 | 2) << 32)
    with pytest.raises(FlistCorruptError, match="malformed"):
        decode(bytes(record))


def test_a_record_over_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_RECORD", 100)
    with pytest.raises(FlistTooLargeError, match="most"):
        decode(bytes(104))
