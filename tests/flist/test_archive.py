"""Where a finished flist is put: whole, and without what killed processes left."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from zerofs.flist.archive import replacing


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    names = [".a[1].flist.0123abcd.part", ".a[1].flist.89ab0123.part", ".b.flist.0123abcd.part"]
    left, written, other = (tmp_path / name for name in names)
    for path in (left, written, other):
        path.write_bytes(b"part")
    with written.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with replacing(tmp_path / "a[1].flist") as out:
            assert not left.exists()
            with replacing(tmp_path / "a[1].flist") as second:
                second.write(b"second")
            out.write(b"first")
    assert (tmp_path / "a[1].flist").read_bytes() == b"first"
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].flist", written.name, other.name}


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacing(tmp_path / "a.flist"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
