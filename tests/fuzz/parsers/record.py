"""Cap'n Proto records: whatever they say, what is read of them can be mounted."""

from __future__ import annotations

from functools import cache

from tests.flist.samples import FOLDER, TREE
from zerofs.errors import FlistCorruptError, FlistTooLargeError
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index
from zerofs.flist.model import Directory, Kind, Route
from zerofs.flist.record import Aci, decode_aci, decode_directory, encode_aci, encode_directory
from zerofs.flist.tally import Tally, is_name


class One:
    """A flist of one directory."""

    format = "one"
    names: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def root(self) -> bytes:
        return b"root"

    def directory(self, key: bytes) -> Directory | None:
        return self._directory if key == b"root" else None

    def routes(self) -> tuple[Route, ...]:
        return ()

    def close(self) -> None:
        pass


def target(data: bytes) -> None:
    try:
        aci = decode_aci(data)
        assert -(2**63) <= aci.uid < 2**63 and 0 <= aci.mode < 2**16
    except (FlistCorruptError, FlistTooLargeError):
        pass
    keys: list[bytes] = []

    def owner_of(key: bytes) -> tuple[int, int, int]:
        keys.append(key)
        return 0o644, 1, 2

    try:
        directory = decode_directory(data, owner_of, Tally())
    except (FlistCorruptError, FlistTooLargeError):
        return
    check(directory, len(data))
    try:
        index = Index.anonymous(compile_flist(One(directory)))
    except (FlistCorruptError, FlistTooLargeError) as error:
        assert "chunk" in str(error)
        return
    assert len(index) == 1 + len(directory.entries)
    assert [name for name, _ in index.children(0)] == sorted(entry.name for entry in directory.entries)


def check(directory: Directory, size: int) -> None:
    """The record had `size` bytes."""
    for entry in directory.entries:
        assert is_name(entry.name)
        assert 0 <= entry.size < 2**63
        assert len(entry.key) + len(entry.target) <= 2 * size
        if entry.kind is Kind.FILE:
            assert entry.block_size > 0 and entry.block_size % 4096 == 0
            assert len(entry.chunks) <= -(-entry.size // entry.block_size)
    # pointers may overlap, but not without end
    chunks = sum(len(entry.chunks) for entry in directory.entries)
    assert len(directory.entries) + chunks <= size + 2048


@cache
def samples() -> list[bytes]:
    made = [
        encode_directory(
            path, directory, lambda path: b"key of " + path, lambda kind, attributes: b"aci", Tally()
        )
        for path, directory in TREE.items()
    ]
    return [*made, encode_directory(b"", Directory(FOLDER, []), bytes, lambda *_: b"", Tally()),
            encode_aci(Aci(b"root", b"wheel", 0o100644, -1, 5))]  # fmt: skip
