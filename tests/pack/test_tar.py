"""Packing tars: the same flist as of the directory, and what archives can hold that directories cannot."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pack.conftest import PackJson
from tests.pack.test_directory import Sink
from tests.pack.trees import loaded, manifest_of, not_utf8
from tests.support.manifest import manifest
from tests.support.sandbox import Sandbox
from zerofs.cli import main
from zerofs.errors import SourceError
from zerofs.flist.model import CHUNK_SIZE, Kind
from zerofs.pack.archive import ArchiveTree
from zerofs.pack.losses import Loss, Losses
from zerofs.pack.progress import Silent
from zerofs.pack.tar import TarSource
from zerofs.pack.tree import Node
from zerofs.store.base import Store

Member = tuple[str, bytes | None] | tarfile.TarInfo


def archive(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, content) files and of members as they stand; None makes a directory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(bytes(member.size)))
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.mode = 0o640
            info.mtime = 7
            if content is None:
                info.type = tarfile.DIRTYPE
                info.mode = 0o700
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return stream.getvalue()


def special(name: str, kind: bytes, target: str = "", **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def read(data: bytes, losses: Losses | None = None) -> Node:
    return TarSource(io.BytesIO(data), "a.tar", losses or Losses("rocksdb")).read(Sink(), Silent())


def at(root: Node, path: str) -> Node:
    for name in path.split("/"):
        root = root.children[name.encode()]
    return root


def gnu_tar(tree: Path, *options: str) -> bytes:
    if shutil.which("tar") is None:
        pytest.skip("no package tar")
    # A socket has no form in a tar.
    command = ["tar", "--exclude=./socket", "--sort=name", "-C", str(tree), *options, "-c", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize("options", [("--format=gnu",), ("--format=posix",), ("--format=posix", "-S")])
@pytest.mark.parametrize("format", ["rocksdb", "sqlite", "fl"])
def test_the_same_flist_as_of_the_directory(
    tree: Path, tmp_path: Path, store: Store, pack_json: PackJson, options: tuple[str, ...], format: str
) -> None:
    (tree / "socket").unlink()
    os.utime(tree, (5, 5))
    not_utf8(tree / "many")
    (tmp_path / "a.tar").write_bytes(gnu_tar(tree, *options))
    pack_json(tree, tmp_path / "x.flist", "--format", format)
    report = pack_json(tmp_path / "a.tar", tmp_path / "y.flist", "--format", format)
    assert report["chunks"]["sent"] == 0
    x, y = (loaded(tmp_path / name, tmp_path / "state") for name in ("x.flist", "y.flist"))
    assert list(manifest_of(y, store)) == list(manifest_of(x, store)) == list(manifest(tree))
    if "--format=posix" in options:  # which holds ctimes, too
        assert x.index.content_hash == y.index.content_hash


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, lambda data: data])
def test_compressed(compress: Callable[[bytes], bytes]) -> None:
    root = read(compress(archive(("a/b", b"content"))))
    assert at(root, "a/b").size == 7


def test_several_gzip_members() -> None:
    data = archive(("a", b"x" * 5000), ("b", b"y"))
    assert set(read(gzip.compress(data[:3000]) + gzip.compress(data[3000:])).children) == {b"a", b"b"}


def test_standard_input(sandbox: Sandbox) -> None:
    """To its very end, so that whoever writes the pipe is not killed for it."""
    data = gzip.compress(archive(("a", b"x" * 100))) + gzip.compress(bytes(1 << 22))
    sandbox.run("zerofs", "pack", "--store", f"dir://{sandbox.path}/store", "-", "x.flist", input=data)
    listing = sandbox.run("zerofs", "ls", "--json", "x.flist").stdout
    assert [entry["path"] for entry in json.loads(listing)] == ["a"]


def test_names_land_below_the_root() -> None:
    root = read(archive(("./a", b"1"), ("b//c", b"2"), ("/d", b"3"), ("./e/./f", b"4"), ("./", None)))
    assert set(root.children) == {b"a", b"b", b"d", b"e"}
    assert at(root, "b/c").kind is Kind.FILE
    assert at(root, "e/f").kind is Kind.FILE
    assert root.attributes.mode == 0o700


@pytest.mark.parametrize("name", ["../a", "a/../../b", "a/..", "/.."])
def test_names_that_climb_are_refused(name: str) -> None:
    with pytest.raises(SourceError, match=r"climbs out"):
        read(archive((name, b"")))


def test_missing_parents_are_made() -> None:
    directory = at(read(archive(("a/b/c", b""))), "a/b")
    assert (directory.kind, directory.attributes) == (Kind.DIR, (0o755, 0, 0, 0, 0))


def test_the_last_member_of_a_name_wins() -> None:
    root = read(
        archive(
            ("a", b"old"),
            ("d/x", b"kept"),
            ("a", b"newer"),
            ("d", None),
            ("f", b""),
            special("f", tarfile.SYMTYPE, "a"),
        )
    )
    assert at(root, "a").size == 5
    assert at(root, "d/x").size == 4
    assert at(root, "d").attributes.mode == 0o700
    assert at(root, "f").kind is Kind.LINK


def test_hard_links_share_content_and_are_counted() -> None:
    losses = Losses("rocksdb")
    root = read(archive(("a", b"content"), special("d/b", tarfile.LNKTYPE, "./a")), losses)
    assert at(root, "d/b") is at(root, "a")
    assert losses.counts()[Loss.HARD_LINK] == (1, [b"d/b"])


def test_replacing_a_name_leaves_its_hard_link() -> None:
    root = read(archive(("a", b"old"), special("b", tarfile.LNKTYPE, "a"), ("a", b"newer")))
    assert (at(root, "a").size, at(root, "b").size) == (5, 3)


@pytest.mark.parametrize("target", ["missing", "d", "../a", "."])
def test_hard_links_to_no_file_are_refused(target: str) -> None:
    with pytest.raises(SourceError):
        read(archive(("d", None), special("b", tarfile.LNKTYPE, target)))


def test_members_behind_a_symbolic_link_stay_in_the_tree() -> None:
    root = read(
        archive(
            ("usr/lib/x", b""),
            special("lib", tarfile.SYMTYPE, "usr/lib"),
            special("up", tarfile.SYMTYPE, "../../../usr"),
            special("absolute", tarfile.SYMTYPE, "/usr/lib"),
            ("lib/a", b"1"),
            ("up/b", b"2"),
            ("absolute/c", b"3"),
        )
    )
    assert set(at(root, "usr/lib").children) == {b"x", b"a", b"c"}
    assert set(at(root, "usr").children) == {b"lib", b"b"}
    assert at(root, "lib").kind is Kind.LINK


@pytest.mark.parametrize(
    "members",
    [
        (special("loop", tarfile.SYMTYPE, "loop"), ("loop/a", b"")),
        (("file", b""), ("file/a", b"")),
        (special(".", tarfile.SYMTYPE, "/"),),
        (special("disk", tarfile.BLKTYPE, devmajor=70_000),),
        (special("odd", b"Z"),),
    ],
)
def test_members_without_a_place_are_refused(members: tuple[Member, ...]) -> None:
    with pytest.raises(SourceError):
        read(archive(*members))


def test_devices_fifos_and_whiteouts() -> None:
    root = read(
        archive(
            special("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
            special("fifo", tarfile.FIFOTYPE),
            (".wh.gone", b""),
            special("gone", tarfile.CHRTYPE),
        )
    )
    assert (at(root, "null").kind, at(root, "null").device) == (Kind.CHARDEV, (1, 3))
    assert at(root, "fifo").kind is Kind.FIFO
    assert at(root, ".wh.gone").kind is Kind.FILE
    assert at(root, "gone").device == (0, 0)


def test_a_symbolic_link_has_the_mode_that_every_link_has() -> None:
    """Whatever an archiver wrote there: Python's own writes 0644 where it is not told."""
    root = read(
        archive(
            special("link", tarfile.SYMTYPE, "to", mode=0o4640), special("fifo", tarfile.FIFOTYPE, mode=0o640)
        )
    )
    assert at(root, "link").attributes.mode == 0o777
    assert at(root, "fifo").attributes.mode == 0o640


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(format: int) -> None:
    name = "/".join(["d" * 90] * 5)
    assert at(read(archive((name, b"x"), format=format)), name).size == 1


def test_times_are_exact_and_clamped() -> None:
    losses = Losses("rocksdb")
    root = read(
        archive(
            special("a", tarfile.REGTYPE, pax_headers={"mtime": "1700000000.999999999"}),
            special("b", tarfile.REGTYPE, pax_headers={"mtime": "-1.5", "ctime": "12.5"}),
            special("c", tarfile.REGTYPE, pax_headers={"mtime": str(2**33)}),
        ),
        losses,
    )
    assert at(root, "a").attributes.mtime == 1_700_000_000
    assert at(root, "b").attributes[3:] == (0, 12)
    assert at(root, "c").attributes.mtime == 2**32 - 1
    assert losses.counts()[Loss.TIME_RANGE].number == 2
    assert losses.counts()[Loss.SUBSECOND].number == 2


def test_fungi_holds_all_times_but_only_utf8() -> None:
    losses = Losses("fl")
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    root = read(archive(special(name, tarfile.REGTYPE, pax_headers={"mtime": "-1.5"})), losses)
    assert next(iter(root.children.values())).attributes.mtime == -2
    assert set(losses.counts()) == {Loss.SUBSECOND, Loss.NOT_UTF8}


def test_owners_out_of_range() -> None:
    losses = Losses("rocksdb")
    root = read(archive(special("a", tarfile.REGTYPE, uid=2**32 - 1, gid=7)), losses)
    assert at(root, "a").attributes[1:3] == (65534, 7)
    assert losses.counts()[Loss.OWNER_RANGE].examples == [b"a"]


def test_extended_attributes_are_counted() -> None:
    losses = Losses("rocksdb")
    headers = {
        "SCHILY.xattr.security.capability": "x",
        "SCHILY.acl.access": "user::rwx",
        "SCHILY.xattr.user.one": "1",
        "SCHILY.xattr.user.two": "2",
    }
    read(archive(special("a", tarfile.REGTYPE, pax_headers=headers)), losses)
    assert {loss: count.number for loss, count in losses.counts().items()} == {
        Loss.CAPABILITY: 1,
        Loss.ACL: 1,
        Loss.XATTR: 1,
    }


WHOLE = archive(("a", b"x" * 3000), ("b", b"y" * 10), ("c", b""))


@pytest.mark.parametrize("length", [0, 100, 512, 1024, 3583, 3584, 4096, 4608, 5120, 5600])
def test_a_cut_archive_is_refused(length: int) -> None:
    """Wherever it is cut, between two members as well."""
    with pytest.raises(SourceError):
        read(WHOLE[:length])


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_cut_or_damaged_compressed_archive_is_refused(compress: Callable[[bytes], bytes]) -> None:
    data = compress(archive(("a", os.urandom(CHUNK_SIZE))))
    with pytest.raises(SourceError):
        read(data[:-20])
    damaged = bytearray(data)
    damaged[-6] ^= 0xFF  # the checksum of all that was read
    with pytest.raises(SourceError):
        read(bytes(damaged))


@pytest.mark.parametrize("offset", [0, 3000])
def test_a_damaged_header_is_refused(offset: int) -> None:
    data = bytearray(WHOLE)
    start = data.index(b"b\0", 512) if offset else 0
    data[start : start + 8] = b"damaged!"
    with pytest.raises(SourceError):
        read(bytes(data))


def test_not_a_tar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(b"hello world" * 100)
    status = main(["pack", "--store", f"dir://{tmp_path}/store", str(tmp_path / "x"), str(tmp_path / "y")])
    error = capsys.readouterr().err
    assert status == 1
    assert error.count("\n") == 1
    assert f"{tmp_path}/x: cannot be read as a tar: it is damaged or was cut short" in error
    assert not (tmp_path / "y").exists()


def test_zstd_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="zstd"):
        read(b"\x28\xb5\x2f\xfd" + bytes(600))


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "lib"]), min_size=1, max_size=5).map("/".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAMES, st.sampled_from(["dir", "file", "link", "hard"]), NAMES), max_size=12))
def test_no_sequence_of_members_makes_a_tree_with_a_loop_or_a_climbing_name(
    members: list[tuple[str, str, str]],
) -> None:
    tree = ArchiveTree("a.tar")
    attributes = (0o755, 0, 0, 0, 0)
    for name, kind, target in members:
        try:
            if kind == "hard":
                tree.link(name.encode(), target.encode())
            else:
                node = Node(Kind[kind.upper()], attributes, target=target.encode())  # type: ignore[arg-type]
                tree.put(name.encode(), node)
        except SourceError:
            continue
    seen: set[int] = set()
    pending = [tree.root]
    while pending:
        node = pending.pop()
        assert node.kind is Kind.DIR
        assert id(node) not in seen
        seen.add(id(node))
        for name, child in node.children.items():
            assert name not in (b"", b".", b"..")
            assert b"/" not in name
            if child.kind is Kind.DIR:
                pending.append(child)
