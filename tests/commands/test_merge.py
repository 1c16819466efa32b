"""`merge`: the union that a mount of the same flists shows, and where its chunks are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import Zerofs, pack
from tests.commands.test_look import write_flist
from tests.support.manifest import manifest
from zerofs.flist.load import load_flist
from zerofs.flist.model import Attributes, ChunkRef, Entry, Kind, Route
from zerofs.store.routerfile import parse_router

FORMATS = ("rocksdb", "sqlite", "fl")


def tree(root: Path, files: dict[str, str], mode: int = 0o755) -> Path:
    root.mkdir()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(mode)
        path.write_text(content)
    return root


@pytest.mark.parametrize("format", FORMATS)
def test_the_last_is_on_top(zerofs: Zerofs, tmp_path: Path, format: str) -> None:
    low = tree(tmp_path / "low", {"a/x": "low", "a/y": "low", "b/z": "low", "c": "low", "d/e/f": "low"})
    top = tree(tmp_path / "top", {"a/x": "top", "b": "a file", "c/g": "top", "d/e/h": "top"}, mode=0o700)
    first = pack(zerofs, low, tmp_path / "low.flist")
    second = pack(zerofs, top, tmp_path / "top.flist", "--format", "sqlite")
    output = tmp_path / "merged"
    report = zerofs("merge", "--json", "--format", format, first.flist, second.flist, "-o", output).json
    assert report["format"] == format
    zerofs("unpack", output, tmp_path / "out")
    out = tmp_path / "out"
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {
        "a/x": "top", "a/y": "low", "b": "a file", "c/g": "top", "d/e/f": "low", "d/e/h": "top",
    }  # fmt: skip
    assert (out / "a").stat().st_mode & 0o777 == 0o700
    assert report["entries"]["file"] == len(found)


@pytest.mark.parametrize("format", FORMATS)
def test_one_flist_in_another_format(zerofs: Zerofs, tmp_path: Path, format: str) -> None:
    from tests.pack.trees import every_kind

    packed = pack(zerofs, every_kind(tmp_path / "tree"), tmp_path / "x.flist", "--format", "sqlite")
    zerofs("merge", "--format", format, packed.flist, "-o", tmp_path / "y")
    assert (
        zerofs("info", "--json", tmp_path / "y").json["content_hash"]
        == zerofs("info", "--json", packed.flist).json["content_hash"]
    )
    zerofs("unpack", tmp_path / "y", tmp_path / "out")
    assert list(manifest(tmp_path / "out")) == list(manifest(packed.tree))


def test_default_format_is_that_of_the_top(zerofs: Zerofs, tmp_path: Path) -> None:
    first = write_flist(tmp_path / "a.flist", "rocksdb", [])
    second = write_flist(tmp_path / "b.flist", "sqlite", [])
    assert zerofs("merge", "--json", first, second, "-o", tmp_path / "c").json["format"] == "sqlite"


ONE = b"""
pools:
  hub: {"00:7F": "redis://:s3cret@one", "80:FF": "redis://two"}
  near: {"00:FF": "zdb://near"}
lookup: [near, hub]
cache: [near]
"""
TWO = b"""
pools:
  hub: {"00:FF": "redis://three"}
  near: {"00:FF": "zdb://near"}
lookup: [hub, near]
"""


def test_routers_follow_each_other(zerofs: Zerofs, tmp_path: Path) -> None:
    routes = [Route(0, 255, "zdb://s3cret@four"), Route(0, 15, "s3://u:s3cret@host/bucket")]
    flists = [
        write_flist(tmp_path / "a.flist", "rocksdb", [], router=ONE),
        write_flist(tmp_path / "b.flist", "sqlite", [], router=TWO),
        write_flist(tmp_path / "c.fl", "fl", [], routes=routes),
    ]
    output = tmp_path / "d.flist"
    report = zerofs("merge", "--json", "--format", "rocksdb", *flists, "-o", output).json
    assert report["stores_left_out"] == ["s3://host/bucket"]
    merged = load_flist(str(output), tmp_path / "state").router
    assert merged is not None
    assert b"s3cret" not in merged
    config = parse_router(merged, "merged")
    assert config.lookup == ("near", "hub", "hub-2", "routes")
    assert config.cache == ("near",)
    urls = {name: [(str(r.ids), r.url.display) for r in rules] for name, rules in config.pools.items()}
    assert urls == {
        "near": [("00:ff", "zdb://near:9900")],
        "hub": [("00:7f", "redis://one:6379"), ("80:ff", "redis://two:6379")],
        "hub-2": [("00:ff", "redis://three:6379")],
        "routes": [("00:ff", "zdb://four:9900")],
    }
    fungi = load_flist(str(merge_to_fungi(zerofs, flists, tmp_path / "e.fl")), tmp_path / "state")
    assert ("s3://host/bucket") in [route.url for route in fungi.routes]
    assert not any("s3cret" in route.url for route in fungi.routes)
    assert {(route.start, route.end) for route in fungi.routes if "one" in route.url} == {(0, 0x7F)}


def merge_to_fungi(zerofs: Zerofs, flists: list[Path], output: Path) -> Path:
    zerofs("merge", *flists, "-o", output)
    return output


def test_no_router(zerofs: Zerofs, tmp_path: Path) -> None:
    flist = write_flist(tmp_path / "a.flist", "rocksdb", [], router=ONE)
    zerofs("merge", "--no-router", flist, "-o", tmp_path / "b")
    assert load_flist(str(tmp_path / "b"), tmp_path / "state").router is None


def test_what_a_format_cannot_hold(zerofs: Zerofs, tmp_path: Path) -> None:
    refs = [ChunkRef(b"0" * 64, b"1" * 64)]
    entry = Entry(b"file", Kind.FILE, Attributes(0o644, 0, 0, 0, 0), 5, block_size=4096, chunks=refs)
    flist = write_flist(tmp_path / "a.flist", "rocksdb", [entry])
    zerofs("merge", "--format", "fl", flist, "-o", tmp_path / "b", status=2)
    fine = write_flist(
        tmp_path / "c.flist", "rocksdb", [], router=b"pools: {a: {'123': 'zdb://x'}}\nlookup: [a]"
    )
    zerofs("merge", "--format", "fl", fine, "-o", tmp_path / "b", status=2)
    assert not (tmp_path / "b").exists()


def test_inputs_that_cannot_be_used(zerofs: Zerofs, tmp_path: Path) -> None:
    flist = write_flist(tmp_path / "a.flist", "rocksdb", [], router=b"pools: []")
    zerofs("merge", flist, "-o", tmp_path / "b", status=4)
    zerofs("merge", tmp_path / "missing", "-o", tmp_path / "b", status=3)
    zerofs("merge", flist, "-o", tmp_path, status=1)
    assert not (tmp_path / "b").exists()
