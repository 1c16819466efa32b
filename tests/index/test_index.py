"""The compiled index: what it says, and what it refuses to map."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tests.index.trees import TreeReader, device, file, link, listing
from zerofs._fast import IndexMap
from zerofs.errors import FlistCorruptError
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import CHILD, CHUNK, HEADER_SIZE, MISSING, NODE, Index, Tables, write_index
from zerofs.flist.model import CHUNK_SIZE, ChunkRef, Kind

TREE = {
    "bin": {"sh": file("shell", mode=0o4755), "ls": link("../usr/bin/ls")},
    "dev": {
        "null": device(Kind.CHARDEV, 1, 3),
        "loop": device(Kind.BLOCK, 7, 300),
        "pipe": device(Kind.FIFO, 0, 0),
    },
    "empty": {},
    "big": file("big", size=CHUNK_SIZE * 2 + 5),
    "none": file(""),
}


def compiled(tree: dict[str, object] | None) -> Index:
    return Index.anonymous(compile_flist(TreeReader(tree)))


def test_says_what_the_tree_holds() -> None:
    index = compiled(TREE)
    found = listing(index)
    assert set(found) == {
        "", "bin", "bin/sh", "bin/ls", "dev", "dev/null", "dev/loop", "dev/pipe", "empty", "big", "none",
    }  # fmt: skip
    assert found["bin/sh"][1].mode == 0o4755
    assert found["bin/ls"][2] == len("../usr/bin/ls")
    assert found["big"][5] == [(f"id-big-{n}".encode(), f"key-big-{n}".encode()) for n in range(3)]
    assert found["none"][5] == []
    null, loop = index.resolve(b"dev/null"), index.resolve(b"/dev/loop/")
    assert null is not None and loop is not None
    assert index.node(null).device == (1, 3) and index.node(null).rdev == os.makedev(1, 3)
    assert index.node(loop).device == (7, 300)
    assert index.total_size == len("shell") + CHUNK_SIZE * 2 + 5


def test_directories_count_their_subdirectories_as_links() -> None:
    found = listing(compiled({"a": {"b": {}, "c": {}, "f": file("x")}}))
    assert (found[""][3], found["a"][3], found["a/b"][3]) == (3, 4, 2)


def test_attributes_of_a_directory_are_those_of_its_own_record() -> None:
    assert listing(compiled({"a": {}}))["a"][1].uid == 0  # the entry in the parent says 9


def test_chunk_sizes_are_what_the_files_expect() -> None:
    index = compiled({"big": file("big", size=CHUNK_SIZE + 5)})
    assert [index.chunk(n).size for n in range(index.chunk_count)] == [CHUNK_SIZE, 5]


@pytest.mark.parametrize(
    "value", [b"", b"\0" * 16, b"k" * 32, b"0123456789abcdef" * 4, b"0123456789ABCDEF" * 4, b"x" * 100]
)
def test_ids_and_keys_come_out_as_they_stood(value: bytes) -> None:
    entry = file("x")._replace(chunks=[ChunkRef(value, value)])
    assert compiled({"f": entry}).chunk(0)[:2] == (value, value)


def test_equal_chunks_are_one() -> None:
    index = compiled({"a": file("same"), "b": {"c": file("same")}, "d": file("other")})
    assert index.chunk_count == 2


def test_lookup_finds_every_name_and_no_other() -> None:
    names = [f"{n:x}" for n in range(300)]
    index = compiled({name: file("") for name in names})
    for name in names:
        assert index.lookup(0, name.encode()) is not None
    for name in ("", "zz", "0.", "1f0", "-"):
        assert index.lookup(0, name.encode()) is None


@given(st.sets(st.binary(min_size=1, max_size=8).filter(lambda name: b"/" not in name and b"\0" not in name)))
def test_lookup_agrees_with_a_dict(names: set[bytes]) -> None:
    tree = {name.hex(): file("") for name in names}  # the helper takes text: use the hex forms
    index = compiled(tree)
    assert {name for name, _ in index.children(0)} == {name.hex().encode() for name in names}
    for name in names:
        row = index.lookup(0, name.hex().encode())
        assert row is not None and index.lookup(row, name) is None


def test_missing_root_record_is_refused() -> None:
    with pytest.raises(FlistCorruptError, match="root"):
        compiled(None)


def test_missing_record_shows_an_unreadable_directory(caplog: pytest.LogCaptureFixture) -> None:
    index = compiled({"gone": None, "f": file("x")})
    row = index.resolve(b"gone")
    assert row is not None
    assert index.node(row).length == MISSING and index.node(row).kind is Kind.DIR
    assert index.children(row) == []
    assert "no record of their own" in caplog.text


def test_cyclic_directories_end() -> None:
    class Cyclic(TreeReader):
        def directory(self, key: bytes):  # type: ignore[no-untyped-def]
            found = super().directory(b"")
            return found._replace(entries=[entry._replace(key=b"") for entry in found.entries])

    index = Index.anonymous(compile_flist(Cyclic({"loop": {}})))
    assert [path for path, _ in index.walk()] == [b"", b"loop"]


def test_of_equal_names_the_first_wins() -> None:
    class Doubled(TreeReader):
        def directory(self, key: bytes):  # type: ignore[no-untyped-def]
            found = super().directory(key)
            first, second = (entry._replace(name=b"x") for entry in found.entries)
            return found._replace(entries=[first, second])

    index = Index.anonymous(compile_flist(Doubled({"a": file("first"), "b": file("second")})))
    assert listing(index)["x"][5] == [(b"id-first-0", b"key-first-0")]


def test_chunks_may_fall_short_but_not_go_beyond() -> None:
    found = listing(
        compiled({"short": file("s", size=CHUNK_SIZE * 3, chunks=2), "long": file("l", size=5, chunks=4)})
    )
    assert len(found["short"][5]) == 2
    assert len(found["long"][5]) == 1


def test_content_hash_depends_on_the_tree_alone() -> None:
    forward = compile_flist(TreeReader(TREE)).content_hash()
    backward = compile_flist(TreeReader(dict(reversed(TREE.items())))).content_hash()
    assert forward == backward
    assert compile_flist(TreeReader({**TREE, "one": file("more")})).content_hash() != forward
    assert compile_flist(TreeReader(TREE, mode=0o700)).content_hash() != forward


def test_file_round_trip(tmp_path: Path) -> None:
    tables = compile_flist(TreeReader(TREE))
    write_index(tables, tmp_path / "x")
    index = Index.open(tmp_path / "x")
    assert listing(index) == listing(compiled(TREE))
    assert index.content_hash == tables.content_hash()
    assert [bytes(section) for section in index.sections()] == [bytes(section) for section in tables]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("position", [0, 8, 20, 100, 255, HEADER_SIZE, HEADER_SIZE + 41, -1])
def test_flipped_byte_is_refused(tmp_path: Path, position: int) -> None:
    write_index(compile_flist(TreeReader(TREE)), tmp_path / "x")
    content = bytearray((tmp_path / "x").read_bytes())
    content[position] ^= 0x10
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FlistCorruptError):
        Index.open(tmp_path / "x")


@pytest.mark.parametrize("size", [0, 10, HEADER_SIZE, HEADER_SIZE + 8, -1])
def test_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    write_index(compile_flist(TreeReader(TREE)), tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[:size])
    with pytest.raises(FlistCorruptError):
        Index.open(tmp_path / "x")


def _node(**changes: int) -> bytes:
    fields = {
        "size": 4096,
        "mtime": 0,
        "ctime": 0,
        "first": 0,
        "count": 0,
        "mode": 0o40755,
        "uid": 0,
        "gid": 0,
        "nlink": 2,
        "rdev": 0,
        "block": 0,
        "parent": 0,
    }
    return NODE.pack(*{**fields, **changes}.values())


_HOSTILE = {
    "root-is-a-file": Tables(_node(mode=0o100644), b"", b"", b"", b""),
    "no-root": Tables(b"", b"", b"", b"", b""),
    "children-outside": Tables(_node(count=1), b"", b"", b"", b""),
    "children-overflow": Tables(_node(first=2**64 - 1, count=2), b"", b"", b"", b""),
    "name-outside": Tables(_node(count=1), CHILD.pack(5, 0, 9, 0o40000, 0), b"", b"", b""),
    "name-empty": Tables(_node(count=1), CHILD.pack(0, 0, 0, 0o40000, 0), b"abc", b"", b""),
    "name-too-long": Tables(_node(count=1), CHILD.pack(0, 0, 256, 0o40000, 0), b"a" * 300, b"", b""),
    "child-without-node": Tables(_node(count=1), CHILD.pack(0, 7, 1, 0o40000, 0), b"a", b"", b""),
    "refs-outside": Tables(_node() + _node(mode=0o100644, count=3, block=4096), b"", b"", b"", b""),
    "ref-without-chunk": Tables(_node(), b"", b"", struct.pack("<I", 4), b""),
    "no-block-size": Tables(
        _node() + _node(mode=0o100644, count=1),
        b"",
        b"",
        struct.pack("<I", 0),
        CHUNK.pack(b"", b"", 0, 0, 0, 1),
    ),
    "target-outside": Tables(_node() + _node(mode=0o120777, first=1, count=5), b"", b"abc", b"", b""),
    "size-negative": Tables(_node(size=2**63), b"", b"", b"", b""),
    "parent-is-no-directory": Tables(_node(parent=1) + _node(mode=0o100644), b"", b"", b"", b""),
    "parent-outside": Tables(_node(parent=9), b"", b"", b"", b""),
    "id-outside": Tables(_node(), b"", b"abc", b"", CHUNK.pack(struct.pack("<QI", 1, 9), b"", 255, 0, 0, 1)),
    "key-outside": Tables(
        _node(), b"", b"abc", b"", CHUNK.pack(b"", struct.pack("<QI", 2**63, 9), 0, 255, 0, 1)
    ),
    "form-unknown": Tables(_node(), b"", b"", b"", CHUNK.pack(b"", b"", 40, 0, 0, 1)),
}


@pytest.mark.parametrize("reason", sorted(_HOSTILE))
def test_hostile_tables_are_refused(reason: str) -> None:
    with pytest.raises(FlistCorruptError):
        Index.anonymous(_HOSTILE[reason])


@pytest.mark.parametrize(
    "sections",
    [
        [(0, 1), (0, 0), (0, 0), (0, 0), (0, 2**62)],
        [(2**64 - 8, 1), (0, 0), (0, 0), (0, 0), (0, 0)],
        [(4, 1), (0, 0), (0, 0), (0, 0), (0, 0)],
        [(0, 2), (0, 0), (0, 0), (0, 0), (0, 0)],
    ],
)
def test_sections_outside_the_buffer_are_refused(sections: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="section"):
        IndexMap(_node(), sections)


@given(st.binary(min_size=40, max_size=40), st.integers(0, 300))
def test_no_table_leads_outside(noise: bytes, where: int) -> None:
    """Noise over the tables, checksums made right: it is refused, or every accessor stays inside."""
    tables = Tables(*(bytearray(section) for section in compile_flist(TreeReader(TREE))))
    joined = bytearray().join(tables)
    where = where * len(joined) // 301
    joined[where : where + 40] = noise[: len(joined) - where]
    parts, at = [], 0
    for section in tables:
        parts.append(bytes(joined[at : at + len(section)]))
        at += len(section)
    try:
        index = Index.anonymous(Tables(*parts))
    except FlistCorruptError:
        return
    for row in range(len(index)):
        node = index.map.node(row)
        index.children(row)
        index.refs(row)
        if node[0] & 0o170000 == Kind.LINK:
            index.target(row)
        index.lookup(row, b"sh")
    for number in range(index.chunk_count):
        index.chunk(number)


def test_rows_out_of_range_are_errors() -> None:
    index = compiled({})
    with pytest.raises(IndexError):
        index.node(1)
    with pytest.raises(IndexError):
        index.chunk(0)
    with pytest.raises(ValueError, match="no link"):
        index.target(0)


def test_checksum_is_over_the_sections(tmp_path: Path) -> None:
    """A header made right by somebody who changed the tables is still refused."""
    write_index(compile_flist(TreeReader(TREE)), tmp_path / "x")
    content = bytearray((tmp_path / "x").read_bytes())
    content[HEADER_SIZE + 3] ^= 1
    content[248:256] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(content[:248])))
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FlistCorruptError, match="checksum"):
        Index.open(tmp_path / "x")
