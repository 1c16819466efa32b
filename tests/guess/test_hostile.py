"""Images that lie: whatever their bytes say, guessing ends, reads little and names little."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers.guess import check_elf
from tests.guess.images import TestImage, compile_c, write
from tests.index.trees import Tree, TreeReader, file, link
from zerofs.flist import paths
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index
from zerofs.prefetch.guess import elf, guesses, image, ldcache, modules, script

NAMES = st.sampled_from([b"libx.so", b"$ORIGIN/lib", b"/lib", b"a.b.c", b"", b"../../..", b"\xff" * 9])
NUMBERS = st.one_of(st.integers(0, 200), st.sampled_from([2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]))


@st.composite
def elf_files(draw: st.DrawFn) -> bytes:
    """A header, segments and a dynamic section whose numbers may be anything."""
    wide, order = draw(st.booleans()), draw(st.sampled_from("<>"))
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2]) + bytes(10)
    number = NUMBERS.map(lambda value: value & (2**64 - 1 if wide else 2**32 - 1))
    table = draw(st.one_of(st.just(64), number))
    header = struct.pack(
        order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"),
        *(3, 62, 1, 0, table, 0, 0, 64, draw(st.sampled_from([0, 31, 32, 56, 65535]))),
        *(draw(st.integers(0, 65535)), 0, 0, 0),
    )
    segments = b"".join(
        struct.pack(order + ("IIQQQQQQ" if wide else "8I"), draw(st.integers(0, 4)), *(draw(number) & 0xFFFFFFFF,),
                    *(draw(number) for _ in range(6)))
        for _ in range(draw(st.integers(0, 4)))
    )  # fmt: skip
    dynamic = b"".join(
        struct.pack(
            order + ("QQ" if wide else "II"), draw(st.sampled_from([0, 1, 5, 10, 15, 29])), draw(number)
        )
        for _ in range(draw(st.integers(0, 6)))
    )
    return (ident + header).ljust(64, b"\0") + segments + dynamic + b"\0".join(draw(st.lists(NAMES)))


@given(st.one_of(st.binary(max_size=300), elf_files()))
def test_the_elf_parser_stays_within_what_there_is(data: bytes) -> None:
    check_elf(data)


@given(st.data())
def test_a_damaged_library_is_no_trouble(data: st.DataObject) -> None:
    content = bytearray(_library())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 2048) - 1))] = data.draw(st.integers(0, 255))
    layout = elf.layout(bytes(content[: elf.HEAD]))
    if layout is not None:
        elf.needs(layout, lambda offset, size: bytes(content[offset : offset + size]))


@given(
    st.one_of(
        st.binary(max_size=400),
        st.builds(
            lambda old, count, flags, rest: (
                (b"ld.so-1.7.0\0" + struct.pack("<I", old) if old is not None else b"")
                + b"glibc-ld.so.cache1.1" + struct.pack("<II", count, 0) + bytes([flags]) + rest
            ),
            st.one_of(st.none(), NUMBERS.map(lambda value: value & 0xFFFFFFFF)),
            NUMBERS.map(lambda value: value & 0xFFFFFFFF),
            st.integers(0, 255),
            st.binary(max_size=300),
        ),
    )
)  # fmt: skip
def test_the_library_cache_parser_stays_within_what_there_is(data: bytes) -> None:
    for name, path in ldcache.parse(data, 62).items():
        assert name in data
        assert path in data


@given(st.binary(max_size=400))
def test_first_lines_may_be_anything(data: bytes) -> None:
    for prefix in (b"", b"#!", b"#!/usr/bin/env "):
        for places in script.programs(prefix + data):
            assert all(places)


@given(st.binary(max_size=2000), st.booleans())
def test_modules_may_be_anything(data: bytes, compiled: bool) -> None:
    assert all(name for name in modules.mentioned(data, compiled=compiled))


@pytest.mark.parametrize(
    "code",
    [b"\xda\x01a" * 300_000, b"import a,b,c\n" * 80_000, b"import " + b"a," * 500_000, b" " * 1_000_000],
)
def test_a_module_that_names_without_end_is_read_for_a_while(code: bytes) -> None:
    """Counted, not timed: what is looked at is bounded by names, repeated ones too."""
    for compiled in (True, False):
        assert len(modules.mentioned(code, compiled=compiled)) <= modules.MOST_MENTIONED


FILES = [
    "bin/program",
    "lib/libx.so",
    "lib/liby.so",
    "etc/ld.so.cache",
    "lib/python3.11/m.py",
    "bin/python3.11",
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(elf_files(), st.binary(max_size=200), st.just(b"#!/bin/program\n")), min_size=6, max_size=6
    )
)
def test_an_image_of_lies_is_guessed_about_and_that_is_all(contents: list[bytes]) -> None:
    tree: Tree = {
        "loop": link("loop"),
        "bin": {},
        "lib": {"python3.11": {}, "up": link("/../../../..")},
        "etc": {},
    }
    for path, content in zip(FILES, contents, strict=True):
        *parents, name = path.split("/")
        place: Tree = tree
        for parent in parents:
            place = place[parent]  # type: ignore[assignment]
        place[name] = file(path, size=max(1, len(content)))
    index = Index.anonymous(compile_flist(TreeReader(tree)))
    rows = {
        row: content
        for path, content in zip(FILES, contents, strict=True)
        if (row := index.resolve(path.encode()))
    }
    asked = guesses.Guesses(index, lambda row, offset, size: rows[row][offset : offset + size])
    said = [chunk for row in range(len(index)) for chunk in asked.follow(row)]
    assert len(said) == len(set(said)) <= index.chunk_count


def test_as_many_links_are_followed_as_the_kernel_follows() -> None:
    tree: Tree = {f"l{number}": link(f"l{number - 1}") for number in range(1, 42)}
    index = Index.anonymous(compile_flist(TreeReader({**tree, "l0": file("x")})))
    assert paths.find(index, b"/l40") == index.resolve(b"l0")
    with pytest.raises(LookupError, match="too many symbolic links"):
        paths.find(index, b"/l41")
    long = Index.anonymous(compile_flist(TreeReader({"long": link("./" * 4000 + "x"), "x": file("x")})))
    with pytest.raises(LookupError, match="too long"):
        paths.find(long, b"/long")


def test_endless_paths_end(tmp_path: Path) -> None:
    """A thousand search paths through forty links each: the look-ups of one file are counted."""
    root = tmp_path / "root"
    compile_c(root / "bin/program", "-pie", "-e", "zero")
    content = (root / "bin/program").read_bytes()
    tree: Tree = {"bin": {"program": file("p", size=len(content))}}
    for number in range(39):
        tree[f"l{number}"] = link(f"l{number + 1}/" + "../" * 1000)
    index = Index.anonymous(compile_flist(TreeReader(tree)))
    looked = image.Image(index, lambda *_: content)
    looked.begin()
    for _ in range(10_000):
        assert looked.find(b"/l0" + b"/." * 100) is None or looked._paths.left >= 0
    assert looked._paths.left < 0
    assert looked.find(b"/bin/program") is None
    looked.begin()
    assert looked.find(b"/bin/program") is not None


def test_bounds_hold_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    write(root, {f"data/{number:02}": "x" for number in range(40)})
    monkeypatch.setattr(guesses, "MOST_CHUNKS", 3)
    image_ = TestImage(root)
    assert len(image_.follow("data/00")) == 3
    monkeypatch.setattr(guesses, "MOST_CHUNKS", 1000)
    monkeypatch.setattr(guesses, "MOST_BYTES", 2)
    assert len(image_.follow("data/00")) == 2
    monkeypatch.setattr(image, "MOST_NAMES", 39)
    assert image_.follow("data/00") == []


def test_a_file_of_too_many_chunks_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.anonymous(compile_flist(TreeReader({"large": file("large", size=100 << 20)})))
    row = index.resolve(b"large")
    assert row is not None
    seen = image.Image(index, lambda *_: None)
    assert len(seen.chunks(row)) == 200
    assert seen.chunks_of(row, 1 << 60, 1) == []
    monkeypatch.setattr(image, "MOST_CHUNKS", 199)
    assert seen.chunks(row) == []


def _library() -> bytes:
    return Path("/proc/self/exe").read_bytes()[: 64 << 10]
