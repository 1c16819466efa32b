"""Packing a directory, in all formats, and reading it back."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.pack.conftest import PackJson
from tests.pack.trees import loaded, manifest_of, not_utf8
from tests.support.manifest import manifest
from tests.support.sandbox import Sandbox
from zerofs.cli import main
from zerofs.errors import SourceChangedError, ZerofsError
from zerofs.flist.model import CHUNK_SIZE, Kind
from zerofs.pack import directory as directory_module
from zerofs.pack.directory import DirectorySource
from zerofs.pack.losses import Losses
from zerofs.pack.pipeline import Pipeline
from zerofs.pack.progress import Silent
from zerofs.pack.tree import Node
from zerofs.store.base import Store

FORMATS = ("rocksdb", "sqlite", "fl")


class Sink(Pipeline):
    """Takes chunks and forgets them."""

    def __init__(self) -> None:
        self.on_chunk = lambda: None

    def add(self, prints: list[bytes], plain: bytes) -> None:
        prints.append(b"")
        self.on_chunk()


def read(root: Path, sink: Sink, **options: bool) -> Node:
    return DirectorySource(root, Losses("rocksdb"), **options).read(sink, Silent())


@pytest.mark.parametrize("format", FORMATS)
def test_the_flist_shows_the_tree(
    tree: Path, tmp_path: Path, store: Store, pack_json: PackJson, format: str
) -> None:
    not_utf8(tree)
    pack_json(tree, tmp_path / "x.flist", "--format", format)
    flist = loaded(tmp_path / "x.flist", tmp_path / "state")
    assert flist.format == format
    assert list(manifest_of(flist, store)) == list(manifest(tree))


def test_report(tree: Path, tmp_path: Path, pack_json: PackJson) -> None:
    report = pack_json(tree, tmp_path / "x.flist")
    found: dict[str, int] = dict.fromkeys((kind.name.lower() for kind in Kind), 0)
    found["dir"] = 1
    size = 0
    for path in tree.rglob("*"):
        status = path.lstat()
        found[Kind(stat.S_IFMT(status.st_mode)).name.lower()] += 1
        size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    assert report["entries"] == found
    assert report["bytes"] == size
    assert report["flist_bytes"] == (tmp_path / "x.flist").stat().st_size
    assert report["losses"]["hard_links"]["count"] == 2
    assert report["losses"]["capabilities"] == {"count": 1, "examples": ["bin/ping"]}
    assert report["losses"]["xattrs"]["count"] == 1
    assert report["losses"]["sparse_files"]["examples"] == ["sparse"]
    assert report["losses"]["subsecond_times"]["count"] > 100
    chunks = report["chunks"]
    assert chunks["distinct"] == chunks["sent"] < chunks["referenced"]
    assert chunks["present"] == 0
    assert chunks["distinct_bytes"] < size


def test_equal_content_is_stored_once(tmp_path: Path, pack_json: PackJson) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(40):
        (root / f"{number}").write_bytes(b"a" * (2 * CHUNK_SIZE))
    chunks = pack_json(root, tmp_path / "x.flist")["chunks"]
    assert (chunks["referenced"], chunks["distinct"], chunks["sent"]) == (80, 1, 1)
    assert sum(1 for path in (tmp_path / "store").rglob("*") if path.is_file()) == 1


def test_second_run_sends_nothing(tree: Path, tmp_path: Path, pack_json: PackJson) -> None:
    first = pack_json(tree, tmp_path / "x.flist")["chunks"]
    second = pack_json(tree, tmp_path / "y.flist")["chunks"]
    assert (second["sent"], second["sent_payload_bytes"]) == (0, 0)
    assert second["present"] == first["sent"]


def test_the_output_and_the_store_are_left_out(tmp_path: Path, pack_json: PackJson) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"content")
    options = ("--store", f"dir://{root}/store")
    for _ in range(2):
        report = pack_json(root, root / "x.flist", *options)
        assert report["entries"]["file"] == 1
        assert report["entries"]["dir"] == 1


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"x")
    root = tmp_path / "tree"
    root.mkdir()
    (root / "way-out").symlink_to(tmp_path / "outside")
    node = read(root, Sink()).children[b"way-out"]
    assert node.kind is Kind.LINK
    assert node.target == os.fsencode(tmp_path / "outside")


def test_a_directory_replaced_by_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"secret")
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_bytes(b"x")
    (root / "a").write_bytes(b"first")
    sink = Sink()

    def swap() -> None:
        (root / "sub").rename(tmp_path / "moved")
        (root / "sub").symlink_to(tmp_path / "outside")

    sink.on_chunk = swap
    with pytest.raises(SourceChangedError, match="vanished"):
        read(root, sink)


def test_a_vanishing_file_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    sink = Sink()
    sink.on_chunk = (tmp_path / "b").unlink
    with pytest.raises(SourceChangedError, match="b: vanished"):
        read(tmp_path, sink)


def test_a_file_that_changes_once_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * CHUNK_SIZE))
    sink = Sink()
    calls = []

    def grow() -> None:
        calls.append(1)
        if len(calls) == 1:
            path.write_bytes(bytes(CHUNK_SIZE + 1))

    sink.on_chunk = grow
    node = read(tmp_path, sink).children[b"file"]
    assert node.size == CHUNK_SIZE + 1
    assert len(node.prints) == 2
    assert len(calls) > 2


def test_a_file_that_keeps_changing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    sink = Sink()

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    sink.on_chunk = grow
    with pytest.raises(SourceChangedError, match="keeps changing"):
        read(tmp_path, sink)


def test_a_file_replaced_by_a_fifo_does_not_hang(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    sink = Sink()

    def replace() -> None:
        (tmp_path / "b").unlink()
        os.mkfifo(tmp_path / "b")

    sink.on_chunk = replace
    with pytest.raises(SourceChangedError, match="no longer a file"):
        read(tmp_path, sink)


def test_short_reads_make_whole_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(CHUNK_SIZE + 10))
    whole = os.read
    monkeypatch.setattr(directory_module.os, "read", lambda fd, size: whole(fd, min(size, 100_000)))
    sizes: list[int] = []
    sink = Sink()
    sink.add = lambda prints, plain: sizes.append(len(plain))  # type: ignore[method-assign]
    read(tmp_path, sink)
    assert sizes == [CHUNK_SIZE, 10]


def test_deep_trees(tmp_path: Path) -> None:
    """Deeper than a path can name."""
    depth = 500
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("directory-", dir_fd=fd)
        below = os.open("directory-", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    try:
        node = read(tmp_path, Sink())
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "directory-"], check=True)
    for _ in range(depth):
        node = node.children[b"directory-"]
    assert node.children[b"leaf"].kind is Kind.FILE


def test_one_file_system(tmp_path: Path) -> None:
    """/proc and /dev are file systems of their own below /."""
    source = DirectorySource(Path("/dev"), Losses("rocksdb"), one_file_system=True)
    mount = next((name for name in ("shm", "pts", "mqueue") if os.path.ismount(f"/dev/{name}")), None)
    if mount is None:
        pytest.skip("the kernel has no file system mounted below /dev")
    node = source.read(Sink(), Silent()).children[mount.encode()]
    assert node.kind is Kind.DIR
    assert node.children == {}


def test_unreadable_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["pack", "--store", f"dir://{tmp_path}/store", str(tmp_path / "none"), str(tmp_path / "x")])
    assert status == 1
    assert capsys.readouterr().err == (
        f"zerofs: {tmp_path}/none: No such file or directory "
        "(name a directory, a tar, or - for a tar on standard input)\n"
    )


def test_a_file_without_permission_is_an_error(sandbox: Sandbox) -> None:
    secret = sandbox.path / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0)
    failures: list[ZerofsError] = []

    def as_nobody() -> None:
        # The kernel's setfsuid concerns this thread alone: the suite stays who it is.
        ctypes.CDLL(None).setfsuid(65534)
        try:
            read(sandbox.path, Sink())
        except ZerofsError as error:
            failures.append(error)

    thread = threading.Thread(target=as_nobody)
    thread.start()
    thread.join()
    assert [str(error) for error in failures] == [f"{secret}: Permission denied"]
