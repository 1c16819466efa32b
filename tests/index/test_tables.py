"""The packed tables against plain ones, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.index.plain_tables import node, plain_tables
from zerofs.flist._tables import ChunkTable, NameTable, total_size
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import CHUNK, FORM_HEX, FORM_NAMES, NODE, Index
from zerofs.flist.load import load_flist
from zerofs.flist.model import CHUNK_SIZE, Attributes, ChunkRef, Directory, Entry, Kind, Route

names = st.binary(min_size=1, max_size=4) | st.binary(min_size=200, max_size=255)
digests = st.one_of(
    st.binary(max_size=3),
    st.binary(min_size=31, max_size=34),
    st.binary(min_size=32, max_size=32).map(lambda digest: digest.hex().encode()),
    st.binary(min_size=32, max_size=32).map(lambda digest: digest.hex().upper().encode()),
    st.binary(min_size=63, max_size=66),
)
refs = st.builds(ChunkRef, digests, digests)
times = st.integers(-(2**63), 2**63 - 1)
ids = st.integers(0, 2**32 - 1)
attributes = st.builds(Attributes, st.integers(0, 0o7777), ids, ids, times, times)


class Listed:
    """Reads directories from a list; a directory's key is the number of its place there."""

    format = "listed"
    names: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, directories: list[Directory]) -> None:
        self._directories = directories

    def root(self) -> bytes:
        return b"0"

    def directory(self, key: bytes) -> Directory | None:
        number = int(key)
        return self._directories[number] if number < len(self._directories) else None

    def routes(self) -> tuple[Route, ...]:
        return ()

    def close(self) -> None: ...


@st.composite
def entries(draw: st.DrawFn, pool: list[ChunkRef]) -> Entry:
    name, owner, kind = draw(names), draw(attributes), draw(st.sampled_from(Kind))
    if kind is Kind.DIR:
        return Entry(name, kind, owner, key=b"%d" % draw(st.integers(0, 6)))
    if kind is Kind.LINK:
        target = draw(st.binary(max_size=9))
        return Entry(name, kind, owner, len(target), target=target)
    if kind is Kind.FILE:
        size = draw(st.integers(0, 4 * CHUNK_SIZE) | st.integers(0, 2**63 - 1))
        block_size = draw(st.sampled_from([4096, CHUNK_SIZE, 65535 * 4096]))
        chunks = draw(st.lists(st.sampled_from(pool), max_size=5))
        return Entry(name, kind, owner, size, block_size=block_size, chunks=chunks)
    return Entry(name, kind, owner, device=(draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_tables_are_those_of_the_layout(data: st.DataObject) -> None:
    pool = data.draw(st.lists(refs, min_size=1, max_size=6))
    directory = st.builds(Directory, attributes, st.lists(entries(pool), max_size=8))
    reader = Listed(data.draw(st.lists(directory, min_size=1, max_size=5)))
    tables, plain = compile_flist(reader), plain_tables(reader)
    assert tuple(map(bytes, tables)) == plain
    assert tables.content_hash() == plain.content_hash()
    sizes = [row[0] for row in NODE.iter_unpack(plain.nodes) if row[5] & 0o170000 == Kind.FILE]
    assert total_size(tables.nodes) == min(sum(sizes), 2**63 - 1)


def test_names_are_found_again_among_many() -> None:
    table = NameTable(b"before")
    wanted = [b"%d" % number for number in range(5000)]
    places = [table.add(name) for name in wanted]
    assert [table.add(name) for name in reversed(wanted)] == places[::-1]
    assert bytes(table.content) == b"before" + b"".join(wanted)


def test_chunks_are_found_again_among_many() -> None:
    names = NameTable()
    table = ChunkTable(names)
    wanted = [ChunkRef(b"%d" % number, (b"%064x" % number)[number % 2 :]) for number in range(5000)]
    assert [table.add(ref, 1) for ref in wanted] == list(range(5000))
    assert [table.add(ref, number) for number, ref in enumerate(wanted)] == list(range(5000))
    rows = list(CHUNK.iter_unpack(table.rows()))
    assert [size for *_, size in rows] == [1, *range(1, 5000)]
    assert {key_form for _, _, _, key_form, _, _ in rows} == {FORM_HEX, FORM_NAMES}
    assert bytes(names.content) == b"".join(ref.key for ref in wanted if len(ref.key) == 63)


def test_sizes_that_no_number_holds_together() -> None:
    owner = Attributes(0o644, 0, 0, 0, 0)
    huge = [Entry(b"%d" % number, Kind.FILE, owner, 2**63 - 1) for number in range(3)]
    assert Index.anonymous(compile_flist(Listed([Directory(owner, huge)]))).total_size == 2**63 - 1


@pytest.mark.parametrize(
    "entry",
    [
        Entry(b"a", Kind.FILE, Attributes(0, 0, 0, 0, 0), -1),
        Entry(b"a", Kind.FILE, Attributes(0, 2**32, 0, 0, 0)),
        Entry(b"a", Kind.FIFO, Attributes(0, 0, 0, 2**63, 0)),
    ],
)
def test_numbers_that_no_row_holds_are_an_error(entry: Entry) -> None:
    with pytest.raises(OverflowError):
        compile_flist(Listed([Directory(Attributes(0, 0, 0, 0, 0), [entry])]))


def test_the_total_counts_files_only() -> None:
    owner = Attributes(0, 0, 0, 0, 0)
    rows = [node(kind, owner, 7, 0, 0, 0) for kind in Kind]
    assert total_size(b"".join(rows)) == 7


def test_the_content_of_a_golden_flist_keeps_its_name(golden: Path, tmp_path: Path) -> None:
    """Indexes and profiles are named by it, on every host; this flist names no owner that a host must know."""
    content = load_flist(str(golden / "small-sqlite.flist"), tmp_path).index.content_hash
    assert content.hex() == "74e86e66349d0ef07b3a22658471255becd10a86922bad7939ee54a880b68551"
