"""The shortest way to an index: what is remembered of a flist, and when it does not count."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.flist.samples import FOLDER, PLAIN, TREE, write
from zerofs.flist import source
from zerofs.flist.load import load_flist
from zerofs.flist.model import Directory, Entry, Kind
from zerofs.flist.source import FlistSource


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flists whose bytes were read for their digest."""
    found: list[str] = []
    compute = FlistSource.__dict__["digest"].func

    def digest(self: FlistSource) -> bytes:
        if "_computed" not in self.__dict__:
            found.append(self.argument)
            self.__dict__["_computed"] = compute(self)
        return bytes(self.__dict__["_computed"])

    monkeypatch.setattr(FlistSource, "digest", property(digest))
    return found


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_SETTLED", 0)


@pytest.mark.parametrize("format", ["sqlite", "fl"])
@pytest.mark.usefixtures("settled")
def test_a_flist_that_lies_where_it_lay_is_not_read(format: str, tmp_path: Path, digested: list[str]) -> None:
    flist = write(format, tmp_path / "flist")
    contents = {load_flist(str(flist), tmp_path / "state").index.content_hash for _ in range(3)}
    assert (len(contents), len(digested)) == (1, 1)
    shutil.copy2(flist, tmp_path / "copy")
    load_flist(str(tmp_path / "copy"), tmp_path / "state")
    assert len(digested) == 2


@pytest.mark.usefixtures("settled")
def test_a_directory_that_lies_where_it_lay_is_not_read(tmp_path: Path, digested: list[str]) -> None:
    flist = tmp_path / "flist"
    flist.mkdir()
    shutil.unpack_archive(write("rocksdb", tmp_path / "packed"), flist, "gztar")
    for _ in range(2):
        load_flist(str(flist), tmp_path / "state")
    assert len(digested) == 1
    (flist / "router.yaml").write_text("pools: {}\n")
    assert load_flist(str(flist), tmp_path / "state").router == b"pools: {}\n"
    assert len(digested) == 2


@pytest.mark.usefixtures("settled")
def test_another_flist_with_the_size_and_times_of_the_last_is_read(tmp_path: Path) -> None:
    flist, state = write("fl", tmp_path / "flist"), tmp_path / "state"
    first, before = load_flist(str(flist), state).index, flist.stat()
    changed = {**TREE, b"": Directory(FOLDER, [*TREE[b""].entries[:-1], Entry(b"m" * 255, Kind.FILE, PLAIN)])}
    other = write("fl", tmp_path / "other", changed)
    assert other.stat().st_size == before.st_size
    flist.write_bytes(other.read_bytes())
    os.utime(flist, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load_flist(str(flist), state).index
    assert (first.resolve(b"m" * 255), second.resolve(b"n" * 255)) == (None, None)
    assert second.resolve(b"m" * 255) is not None


def test_a_flist_that_was_just_written_is_read_each_time(tmp_path: Path, digested: list[str]) -> None:
    flist = write("fl", tmp_path / "flist")
    for _ in range(2):
        load_flist(str(flist), tmp_path / "state")
    assert len(digested) == 2
    assert not list((tmp_path / "state").glob("seen-*"))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"short", b"[]", b"{}", b'{"identity": 1, "digest": 2}', bytes(300)])
def test_what_is_remembered_may_be_damaged(damage: bytes, tmp_path: Path, digested: list[str]) -> None:
    flist = write("fl", tmp_path / "flist")
    content = load_flist(str(flist), tmp_path / "state").index.content_hash
    (seen,) = (tmp_path / "state").glob("seen-*")
    seen.write_bytes(damage)
    assert load_flist(str(flist), tmp_path / "state").index.content_hash == content
    assert len(digested) == 2
    assert seen.read_bytes() != damage
