"""`unpack`: the same tree again, nothing outside of it, and nothing left of a run that failed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import Packed, Zerofs, pack
from tests.commands.test_look import write_flist
from tests.pack.trees import every_kind, not_utf8
from tests.support.manifest import manifest
from tests.support.sandbox import Sandbox
from zerofs.flist.model import CHUNK_SIZE, Attributes, ChunkRef, Entry, Kind

ATTRIBUTES = Attributes(0o644, 0, 0, 0, 0)


@pytest.mark.parametrize("format", ["rocksdb", "sqlite", "fl"])
def test_round_trip(zerofs: Zerofs, tmp_path: Path, format: str) -> None:
    tree = every_kind(tmp_path / "tree")
    not_utf8(tree)
    packed = pack(zerofs, tree, tmp_path / "x.flist", "--format", format)
    report = zerofs("unpack", "--json", packed.flist, tmp_path / "out").json
    assert list(manifest(tmp_path / "out")) == list(manifest(tree))
    assert report["losses"] == {}
    assert report["entries"] == zerofs("info", "--json", packed.flist).json["entries"]
    assert (tmp_path / "out/sparse").stat().st_blocks * 512 <= CHUNK_SIZE  # holes are holes again


def test_from_redis_through_a_cache(
    zerofs: Zerofs, tmp_path: Path, redis_server: object, packed: Packed
) -> None:
    server = redis_server()  # type: ignore[operator]
    zerofs("store", "copy", packed.flist, "--to", server.url)
    shutil.rmtree(packed.chunks)
    options = ("--storage-url", server.url, "--cache", tmp_path / "cache")
    zerofs("unpack", *options, packed.flist, tmp_path / "out")
    server.stop()
    zerofs("unpack", *options, packed.flist, tmp_path / "again")
    assert list(manifest(tmp_path / "again")) == list(manifest(packed.tree))


def test_into_an_empty_directory(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    zerofs("unpack", packed.flist, tmp_path / "out")
    assert list(manifest(tmp_path / "out")) == list(manifest(packed.tree))


def test_refuses_what_is_not_empty(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "kept").write_text("mine")
    assert "--force" in zerofs("unpack", packed.flist, out, status=1).err
    assert [path.name for path in out.iterdir()] == ["kept"]
    zerofs("unpack", packed.flist, out / "kept", status=1)
    zerofs("unpack", packed.flist, tmp_path / "no/such/parent", status=1)


def test_force_replaces_and_follows_nothing(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    (out / "kept").write_text("mine")
    (out / "one").symlink_to(outside / "victim")
    (out / "bin").symlink_to(outside)
    (out / "fifo").write_text("in the way")
    (out / "many").mkdir()
    (out / "many/1").write_text("old")
    zerofs("unpack", "--force", packed.flist, out)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "untouched"}
    assert (out / "kept").read_text() == "mine"
    (out / "kept").unlink()
    os.utime(out, (packed.tree.stat().st_mtime,) * 2)
    assert list(manifest(out)) == list(manifest(packed.tree))


def test_force_removes_no_directory(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "out/one").mkdir(parents=True)
    (tmp_path / "out/one/mine").write_text("mine")
    assert "in the way" in zerofs("unpack", "--force", packed.flist, tmp_path / "out", status=1).err
    assert (tmp_path / "out/one/mine").read_text() == "mine"


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_failed_run_leaves_nothing(
    zerofs: Zerofs, packed: Packed, tmp_path: Path, existed: bool, fault: str
) -> None:
    (value,) = zerofs("stat", "--json", packed.flist, "whole").json
    identity = value["chunks"][0]["id"]
    chunk = packed.chunks / identity[:2] / identity
    if fault == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-8] + b"damaged!")
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    assert identity in zerofs("unpack", packed.flist, out, status=1).err
    assert out.exists() == existed
    assert not existed or list(out.iterdir()) == []


def test_a_file_with_too_few_chunks(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    entry = Entry(b"short", Kind.FILE, ATTRIBUTES, 5)
    flist = write_flist(tmp_path / "s.flist", "rocksdb", [entry])
    zerofs("unpack", flist, tmp_path / "out", status=3)
    assert not (tmp_path / "out").exists()


def test_a_chunk_shorter_than_the_flist_says(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    (one,) = zerofs("stat", "--json", packed.flist, "bin/su").json
    refs = [ChunkRef(chunk["id"].encode(), chunk["key"].encode()) for chunk in one["chunks"]]
    flist = write_flist(
        tmp_path / "s.flist", "rocksdb", [Entry(b"long", Kind.FILE, ATTRIBUTES, 500, chunks=refs)]
    )
    options = ("--storage-url", f"dir://{packed.chunks}")
    assert "'long'" in zerofs("unpack", *options, flist, tmp_path / "out", status=1).err


def test_without_root(sandbox: Sandbox, zerofs: Zerofs, packed: Packed) -> None:
    """Owners and devices need root: everything else is there, and what is not is named."""
    import json
    import subprocess
    import sys

    home = sandbox.directory("home")
    os.chown(home, 65534, 65534)
    shutil.copytree(packed.chunks, sandbox.path / "chunks")
    shutil.copy(packed.flist, sandbox.path / "x.flist")
    subprocess.run(["chmod", "-R", "a+rX", sandbox.path / "chunks", sandbox.path / "x.flist"], check=True)
    script = (
        "import os, sys, zerofs.cli, zerofs.cli.unpack, zerofs.flist.load, zerofs.flist.rocksdb, rocksdict;"
        "import zerofs.flist.source, zerofs.pack.unpack, zerofs.store.build, zerofs.store.routerfile, capnp;"
        "import zerofs.flist.compile, zerofs.store.directory, zerofs.flist.record, zerofs.cli.progress, numpy;"
        "import hashlib, cramjam, tempfile;"
        "from zerofs.flist.record import _schema; _schema();"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "raise SystemExit(zerofs.cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", script, "unpack", "--json"),
            *("--storage-url", f"dir://{sandbox.path}/chunks"),
            *(sandbox.path / "x.flist", home / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={**os.environ, "TMPDIR": str(home), "HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert sorted(report["losses"]) == ["devices", "owners"]
    assert report["losses"]["devices"] == {"count": 2, "examples": ["disk", "null"]}
    made, wanted = ([json.loads(line) for line in manifest(root)] for root in (home / "out", packed.tree))
    wanted = [row for row in wanted if row["kind"] not in ("chardev", "block")]
    for row in wanted:
        row["uid"] = row["gid"] = 65534
    su = next(row for row in wanted if row["path"] == "bin/su")
    assert su["mode"] == "4755"
    su["mode"] = "0755"  # set-user-id of another user would be a gift
    assert made == wanted
