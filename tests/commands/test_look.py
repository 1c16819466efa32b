"""`ls`, `stat`, `cat` and `info`: what they say of golden flists and of our own."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import Packed, Zerofs, pack
from tests.pack.trees import OLD
from tests.support.golden import Golden, load_directory
from tests.support.redisserver import free_port
from tests.support.sandbox import BINARIES, Sandbox
from zerofs.flist.model import CHUNK_SIZE, Attributes, ChunkRef, Directory, Entry, Kind, Route
from zerofs.flist.writer import open_writer
from zerofs.pack import patience


def test_ls_of_the_golden_flists(zerofs: Zerofs, golden_flist: Golden) -> None:
    expected = {row["path"]: row for row in map(json.loads, golden_flist.manifest())}
    root = expected.pop(".")
    listed = zerofs("ls", "-R", "--json", golden_flist.flist).json
    assert {row["path"] for row in listed} == set(expected)
    for row in [*listed, *zerofs("ls", "-d", "--json", golden_flist.flist).json]:
        wanted = expected.get(row["path"], root)
        assert {name: row[name] for name in wanted if name != "sha256"} == {
            name: value for name, value in wanted.items() if name != "sha256"
        }


def test_cat_of_the_golden_flists(golden_flist: Golden, sandbox: Sandbox) -> None:
    store = sandbox.path / "chunks"
    load_directory(store, golden_flist.chunks())
    files = [row for row in map(json.loads, golden_flist.manifest()) if row["kind"] == "file"]
    paths = [row["path"] for row in files]
    out = sandbox.run("zerofs", "cat", "--storage-url", f"dir://{store}", golden_flist.flist, *paths).stdout
    for row in files:
        content, out = out[: row["size"]], out[row["size"] :]
        assert hashlib.sha256(content).hexdigest() == row["sha256"], row["path"]
    assert out == b""


def test_ls_lines(zerofs: Zerofs, packed: Packed) -> None:
    lines = zerofs("ls", packed.flist, "bin").out.splitlines()
    assert [line.split()[-1] for line in lines] == ["one-again", "ping", "su"]
    su = next(line for line in lines if line.endswith(" su"))
    assert su.startswith("-rwsr-xr-x 1 0 0 10 ")
    everything = zerofs("ls", packed.flist).out
    assert "dangling -> nowhere/at all\n" in everything
    assert " 1,3 " in everything
    assert "2001-02-03" in everything


def test_ls_of_several(zerofs: Zerofs, packed: Packed) -> None:
    out = zerofs("ls", packed.flist, "/one", "bin", "many/").out
    assert out.splitlines()[0].endswith(" /one") or out.splitlines()[0].endswith(" one")
    assert "\nbin:\n" in out
    assert "\nmany:\n" in out


def test_ls_escapes_what_a_terminal_obeys(zerofs: Zerofs, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a\x1b[2Jb\nc").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9")).write_bytes(b"")
    packed = pack(zerofs, tree, tmp_path / "x.flist")
    assert r"a\x1b[2Jb\nc" in zerofs("ls", packed.flist).out
    names = {row["path"] for row in zerofs("ls", "--json", packed.flist).json}
    assert names == {"a\x1b[2Jb\nc", "caf\udce9"}


def test_stat(zerofs: Zerofs, packed: Packed) -> None:
    (value,) = zerofs("stat", "--json", packed.flist, "/over").json
    assert (value["path"], value["kind"], value["size"]) == ("over", "file", CHUNK_SIZE + 1)
    assert value["block_size"] == CHUNK_SIZE
    assert [sorted(chunk) for chunk in value["chunks"]] == [["id", "key"]] * 2
    assert all((packed.chunks / chunk["id"][:2] / chunk["id"]).exists() for chunk in value["chunks"])
    link, root = zerofs("stat", "--json", packed.flist, "absolute", ".").json
    assert (link["kind"], link["target"]) == ("link", "/one")
    assert (root["path"], root["kind"], root["mtime"]) == (".", "dir", OLD)
    text = zerofs("stat", packed.flist, "disk", "dangling").out
    assert "kind: block 259,4097" in text
    assert "kind: link to nowhere/at all" in text


def test_paths_follow_links_within_the_flist(zerofs: Zerofs, packed: Packed) -> None:
    for path in ("absolute", "ünïcödé and space/日本", "bin/../one", "../../one"):
        assert zerofs("cat", packed.flist, path).out == zerofs("cat", packed.flist, "one").out


@pytest.mark.parametrize("command", ["ls", "stat", "cat"])
def test_a_path_that_is_not_there(zerofs: Zerofs, packed: Packed, command: str) -> None:
    assert "no such path" in zerofs(command, packed.flist, "one", "bin/nothing", status=1).err


@pytest.mark.parametrize(
    ("path", "text"),
    [("bin", "is a directory, not a file"), ("fifo", "is a FIFO, not a file"), ("dangling", "no such path")],
)
def test_cat_wants_files(zerofs: Zerofs, packed: Packed, path: str, text: str) -> None:
    done = zerofs("cat", packed.flist, path, status=1)
    assert done.out == "" and text in done.err


def test_cat_several(zerofs: Zerofs, packed: Packed) -> None:
    assert zerofs("cat", packed.flist, "many/1", "empty", "many/2", "many/4").out == "same24"


def test_cat_of_a_damaged_chunk(zerofs: Zerofs, packed: Packed) -> None:
    (value,) = zerofs("stat", "--json", packed.flist, "bin/su").json
    chunk = value["chunks"][0]["id"]
    (packed.chunks / chunk[:2] / chunk).write_bytes(b"damaged")
    assert zerofs("cat", packed.flist, "bin/su", status=1).out == ""


def test_cat_through_the_cache(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    cached = ("cat", "--cache", tmp_path / "cache", packed.flist, "many/2")
    assert zerofs(*cached).out == "2"
    packed.chunks.rename(tmp_path / "gone")
    assert zerofs(*cached).out == "2"
    assert (tmp_path / "cache/data.mdb").exists()


def test_cat_from_a_store_that_is_away(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    packed.chunks.rename(tmp_path / "gone")
    url = f"redis://127.0.0.1:{free_port()}"
    line = zerofs("cat", "--timeout", "1", "--storage-url", url, packed.flist, "one", status=1).err
    assert url in line


def test_whoever_waits_is_told_for_what(
    zerofs: Zerofs,
    packed: Packed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    packed.chunks.rename(tmp_path / "gone")
    url = f"redis://127.0.0.1:{free_port()}"
    zerofs("cat", "--timeout", "2", "--storage-url", url, packed.flist, "one", status=1)
    (line,) = (each.getMessage() for each in caplog.records)
    assert url in line and line.endswith(": cannot be read; trying again, for 2 s at most")


def test_a_signal_leaves_no_index_behind(packed: Packed, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        router = tmp_path / "router.yaml"
        router.write_text(f"pools:\n  a:\n    0:F: {url}\nlookup: [a]\n")
        packed.chunks.rename(tmp_path / "moved")
        process = subprocess.Popen(
            [BINARIES / "zerofs", "cat", "--local-router", router, packed.flist, "one"],
            env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        silent.settimeout(60)
        with silent.accept()[0]:
            assert os.listdir(temporary) != []
            process.terminate()
            assert process.communicate(timeout=60)[1] == b"zerofs: interrupted\n"
    assert process.returncode == 130
    assert os.listdir(temporary) == []


def test_router_and_storage_url(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    packed.chunks.rename(tmp_path / "moved")
    url = f"dir://{tmp_path}/moved"
    assert zerofs("cat", "--storage-url", url, packed.flist, "many/2").out == "2"
    (tmp_path / "url").write_text(url + "\n")
    assert zerofs("cat", "--storage-url", f"@{tmp_path}/url", packed.flist, "many/2").out == "2"
    (tmp_path / "router.yaml").write_text(f"pools:\n  a:\n    0:F: {url}\nlookup: [a]\n")
    assert zerofs("cat", "--local-router", tmp_path / "router.yaml", packed.flist, "many/2").out == "2"
    (tmp_path / "router.yaml").write_text("pools: []\n")
    zerofs("cat", "--local-router", tmp_path / "router.yaml", packed.flist, "many/2", status=4)


def test_info(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    value = zerofs("info", "--json", packed.flist).json
    listed = zerofs("ls", "-R", "--json", packed.flist).json
    assert sum(value["entries"].values()) == len(listed) + 1
    assert value["bytes"] == sum(row["size"] for row in listed if row["kind"] == "file")
    assert value["format"] == "rocksdb"
    assert value["chunks"]["distinct"] == sum(1 for path in packed.chunks.rglob("*") if path.is_file())
    assert value["router"]["pools"] == {"main": [{"range": "0:f", "url": f"dir://{packed.chunks}"}]}
    again = pack(zerofs, packed.tree, tmp_path / "y.flist", "--format", "sqlite")
    assert len(zerofs("info", "--json", again.flist).json["content_hash"]) == 64
    text = zerofs("info", packed.flist).out
    assert f"dir://{packed.chunks}" in text
    assert value["content_hash"] in text


def write_flist(path: Path, format: str, entries: list[Entry], **published: object) -> Path:
    attributes = Attributes(0o755, 0, 0, 0, 0)
    writer = open_writer(format, path)
    writer.add(b"", Directory(attributes, entries))
    writer.finish(**published)  # type: ignore[arg-type]
    return path


def test_info_shows_no_password(zerofs: Zerofs, tmp_path: Path) -> None:
    router = b"pools:\n  a:\n    0:F: redis://:s3cret@host\nlookup: [a]\ncache: [a]\n"
    flist = write_flist(tmp_path / "x.flist", "rocksdb", [], router=router)
    routes = [Route(0, 255, "zdb://s3cret@host"), Route(0, 255, "s3://u:s3cret@host/b?region=x")]
    fungi = write_flist(tmp_path / "x.fl", "fl", [], routes=routes)
    broken = write_flist(tmp_path / "y.flist", "sqlite", [], router=b"pools: {a: {zz: redis://:s3cret@h}}")
    for path in (flist, fungi, broken):
        for options in ((), ("--json",)):
            assert "s3cret" not in zerofs("info", *options, path).out
    assert "redis://host:6379" in zerofs("info", flist).out
    assert "unreadable" in zerofs("info", broken).out


def test_a_file_with_too_few_chunks(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    (whole,) = zerofs("stat", "--json", packed.flist, "whole").json
    refs = [ChunkRef(chunk["id"].encode(), chunk["key"].encode()) for chunk in whole["chunks"]]
    attributes = Attributes(0o644, 0, 0, 0, 0)
    entry = Entry(b"short", Kind.FILE, attributes, CHUNK_SIZE + 5, chunks=refs)
    flist = write_flist(tmp_path / "s.flist", "rocksdb", [entry])
    line = zerofs("cat", "--storage-url", f"dir://{packed.chunks}", flist, "short", status=3).err
    assert f"{CHUNK_SIZE} of {CHUNK_SIZE + 5} bytes" in line


@pytest.mark.parametrize("command", ["ls", "info"])
def test_flists_that_cannot_be_read(zerofs: Zerofs, tmp_path: Path, command: str) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "empty", "missing"):
        assert name in zerofs(command, tmp_path / name, status=3).err
