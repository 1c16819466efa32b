"""All that reads an index, let loose on one that may be hostile: readers, guesses, swaps, layers, and the engine.

``python -m tests.index.exercise FILE…`` prints a line for each file: ``refused: why`` or ``read``.  It runs in a
process of its own, so that a read outside of the map ends that, and not the suite.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.engine import kernel
from tests.engine.kernel import Kernel
from tests.fuzz.place import fresh_directory
from zerofs._fast import Recency, WorkingSet
from zerofs.chunk.codec import cache_name
from zerofs.cli import entries, ls
from zerofs.errors import ChunkCorruptError, ChunkError, FlistCorruptError, ZerofsError
from zerofs.flist import paths
from zerofs.flist.compile import compile_flist
from zerofs.flist.graft import graft
from zerofs.flist.index import Index, Tables
from zerofs.flist.layers import LayeredReader
from zerofs.flist.model import Chunk, Kind
from zerofs.pack.contents import Contents, pieces
from zerofs.pack.progress import Silent
from zerofs.pack.unpack import Unpacker
from zerofs.prefetch import survey
from zerofs.prefetch.guess.guesses import Guesses

MOST_ROWS = 64
MOST_CHUNK = 1 << 20  # bytes that this store gives
_OFFSETS = (0, 1, 4095, 4096, 2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def exercise(index: Index) -> None:
    """AssertionError, or the end of the process, where something is wrong."""
    rows = range(min(len(index), MOST_ROWS))
    _read(index, rows)
    _guess(index, rows)
    _combine(index)
    _unpack(index)
    for cache in (None, _Cache(index)):
        _serve(index, rows, cache)


# -- readers -------------------------------------------------------------------------------


def _read(index: Index, rows: range) -> None:
    walked = list(index.walk())
    assert len({row for _, row in walked}) == len(walked) <= len(index)
    for path, row in walked[:MOST_ROWS]:
        assert index.resolve(path) == row
        assert b"\0" not in path
        entries.as_json(index, row, path)
        ls._line(index, path, row)
    for row in rows:
        node = index.node(row)
        assert node.kind in Kind
        index.lookup(row, b"name")
        assert len(index.children(row)) <= index.map.node_count
        if node.kind is Kind.LINK:
            assert len(index.target(row)) == node.length
        if node.kind is Kind.FILE and node.length < 10_000:
            _pieces(index, row)
        for path in (b"../..", b"name/../..", b"/a/b"):
            with contextlib.suppress(LookupError):
                paths.find(index, path, start=row)
    for number in range(min(index.chunk_count, MOST_ROWS)):
        chunk = index.chunk(number)
        assert len(chunk.id) <= 4096 and len(chunk.key) <= 4096
        cache_name(chunk.key)


def _pieces(index: Index, row: int) -> None:
    try:
        found = list(pieces(index, row, "file"))
    except FlistCorruptError:
        return
    assert sum(piece.size for piece in found) == (index.node(row).size if found else 0)
    assert all(piece.size > 0 for piece in found)


def _guess(index: Index, rows: range) -> None:
    content = b"#!/bin/sh\n"
    guesses = Guesses(index, lambda row, offset, size: content[offset : offset + size])
    for row in rows:
        assert all(number < index.chunk_count for number in guesses.follow(row))
    if sum(index.map.file_length(row) for row in rows) < 100_000 and len(index) <= MOST_ROWS:
        found = survey.survey(index, _Cache(index), survey.files_below(index))  # type: ignore[arg-type]
        assert found.chunks <= index.chunk_count


def _combine(index: Index) -> None:
    """What is made of it can be mounted in its turn."""
    empty = _empty()
    layered = Index.anonymous(compile_flist(LayeredReader([index, index])))
    assert [path for path, _ in layered.walk()] == [path for path, _ in index.walk()]
    for base, tree in ((index, empty), (empty, index), (index, index), (index, layered)):
        grafted = Index.anonymous(graft(base, tree).tables)
        assert [path for path, _ in grafted.walk()] == [path for path, _ in tree.walk()]


def _empty() -> Index:
    node = struct.pack("<QqqQIIIIIIII", 4096, 0, 0, 0, 0, 0o40755, 0, 0, 2, 0, 0, 0)
    return Index.anonymous(Tables(node, b"", b"", b"", b""))


class _Contents(Contents):
    """Zeros, as many as a chunk says."""

    def __init__(self) -> None:
        pass

    def read(self, chunks: Any) -> list[bytes]:
        if any(chunk.size > MOST_CHUNK for chunk in chunks):
            raise ChunkCorruptError("larger than this test likes")
        return [bytes(chunk.size) for chunk in chunks]


def _unpack(index: Index) -> None:
    with fresh_directory() as place:
        (place / "beside").touch()
        try:
            Unpacker(index, _Contents(), place / "out", Silent(), workers=1).run()
        except (ZerofsError, OverflowError) as error:
            assert not isinstance(error, OverflowError), "a time that no file can have"
        assert set(os.listdir(place)) <= {"beside", "out"}


# -- the engine ----------------------------------------------------------------------------


class _Cache:
    """Has every chunk, of the size that is wanted, as far as that is not too much."""

    def __init__(self, index: Index) -> None:
        self._sizes: dict[bytes, int] = {}
        for number in range(min(index.chunk_count, 4096)):
            chunk: Chunk = index.chunk(number)
            self._sizes[cache_name(chunk.key)] = chunk.size
        self._zeros = bytes(MOST_CHUNK)

    def working_set(self) -> WorkingSet:
        return WorkingSet(Recency())

    def snapshot(self) -> Self:
        return self

    def tree(self) -> None:
        """It is not LMDB's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def release(self) -> None:
        pass

    def find(self, name: bytes, verify: bool = True) -> memoryview | None:
        size = self._sizes.get(name, 0)
        return memoryview(self._zeros)[:size] if size <= MOST_CHUNK else None

    def has_many(self, names: list[bytes]) -> list[bool]:
        return [self.find(name) is not None for name in names]


def _serve(index: Index, rows: range, cache: _Cache | None) -> None:
    def request(tables: object, number: int, done: Any) -> None:
        size = index.chunk(number).size
        done(number, bytes(size) if size <= MOST_CHUNK else None)

    errors: list[Exception] = []
    fake = Kernel(index.map, cache=cache, request=request, report=errors.append)
    try:
        fake.init()
        for row in rows:
            _ask_of(fake, index, row)
    finally:
        fake.close()
    assert fake.results == [0]
    assert all(isinstance(error, ChunkError) for error in errors)


def _ask_of(fake: Kernel, index: Index, row: int) -> None:
    node = row + 1
    size = index.node(row).size
    assert fake.ask(kernel.GETATTR, node).error == 0
    for name in (b".", b"..", b"name", b"n" * 300, *(name for name, _ in index.children(row)[:8])):
        fake.lookup(node, name)
    for opcode in (kernel.READDIR, kernel.READDIRPLUS):
        for offset in (0, 1, 2, 3, *_OFFSETS):
            answer = fake.ask(opcode, node, kernel.read_in(offset, 65536))
            kernel.dirents(answer.body, plus=opcode == kernel.READDIRPLUS)
    answer = fake.ask(kernel.READLINK, node)
    assert len(answer.body) < 4096
    for offset in {*_OFFSETS, size // 2, max(size - 1, 0), max(size - 5000, 0)}:
        for length in (1, 4096, 1 << 20, 2**32 - 1):
            answer = fake.ask(kernel.READ, node, kernel.read_in(offset, length))
            assert len(answer.body) <= min(length, max(size - offset, 0))
        fake.ask(kernel.LSEEK, node, struct.pack("<QQII", 0, offset, 4, 0))


def main(files: list[str]) -> None:
    for file in files:
        try:
            index = Index.open(Path(file))
        except FlistCorruptError as error:
            print(f"refused: {error}", flush=True)
            continue
        exercise(index)
        print("read", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
