"""The golden flists, read without a mount, say what a mount of them must show."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.flist.samples import listing, manifest, members_of, read
from tests.support.golden import Golden


def test_archive(golden_flist: Golden, tmp_path: Path) -> None:
    assert listing(read(golden_flist.flist, tmp_path / "work")) == manifest(golden_flist.manifest())


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz", "zst"])
def test_every_container_without_an_extension(golden_flist: Golden, tmp_path: Path, compression: str) -> None:
    flist = tmp_path / "flist"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w" if compression == "zst" else f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, data in members_of(golden_flist.flist):
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    content = plain.getvalue()
    if compression == "zst":
        import cramjam

        content = bytes(cramjam.zstd.compress(content))
    flist.write_bytes(content)
    assert listing(read(flist, tmp_path / "work")) == manifest(golden_flist.manifest())


def test_unpacked_directory_is_left_as_it_is(golden_flist: Golden, tmp_path: Path) -> None:
    directory = tmp_path / "unpacked"
    directory.mkdir()
    for name, data in members_of(golden_flist.flist):
        (directory / str(name)).write_bytes(data)
    before = _state(directory)
    assert listing(read(directory, tmp_path / "work")) == manifest(golden_flist.manifest())
    assert _state(directory) == before
    assert list((tmp_path / "work").glob("*")) == []


def _state(directory: Path) -> dict[str, tuple[int, int, int]]:
    state = {entry.name: os.stat(entry) for entry in directory.iterdir()}
    state["."] = os.stat(directory)
    return {name: (status.st_size, status.st_mtime_ns, status.st_ino) for name, status in state.items()}
