"""`zerofs pin`, `unpin`, `df`, `gc` and `fsck`: what they say, what they do, and what they refuse."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path

import pytest

from tests.commands.conftest import Packed, Zerofs
from tests.pack.trees import CHUNK_SIZE
from tests.support.sandbox import Sandbox
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import cache_name
from zerofs.cli import main
from zerofs.flist.index import Index


@pytest.fixture
def warm(packed: Packed, tmp_path: Path, zerofs: Zerofs) -> Path:
    """A cache that holds all of the packed flist."""
    zerofs("warmup", "--cache", tmp_path / "ca", "--cache-size", "16M", "--all", packed.flist)
    return tmp_path / "ca"


def fill(cache: Path, first: int, count: int) -> list[bytes]:
    """Entries that no flist names."""
    names = [b"\x02" + number.to_bytes(16, "big") for number in range(first, first + count)]
    with ChunkCache(cache, size_limit=None) as opened:
        for name in names:
            opened.put_many([(name, os.urandom(200_000))])
    return names


def missing(cache: Path, packed: Packed) -> int:
    """How many chunks of the packed flist are not there."""
    (path,) = (cache / "flists").glob("*.index-*")
    index = Index.open(path)
    with ChunkCache(cache, size_limit=None) as opened:
        names = [cache_name(index.chunk(number).key) for number in range(index.chunk_count)]
        return opened.has_many(names).count(False)


def test_what_is_pinned_outlives_whatever_comes(warm: Path, packed: Packed, zerofs: Zerofs) -> None:
    assert zerofs("pin", "--cache", warm, packed.flist).out == f"{packed.flist}: pinned\n"
    assert "already" in zerofs("pin", "--cache", warm, packed.flist).out
    fill(warm, 0, 150)
    assert missing(warm, packed) == 0
    (told,) = zerofs("df", "--cache", warm, "--json").json["flists"]
    assert told["pinned"] and told["chunks"] == told["chunks_cached"] > 50 and not told["mounted"]
    assert zerofs("unpin", "--cache", warm, told["content_hash"], "--json").json[0]["changed"]
    assert not zerofs("unpin", "--cache", warm, packed.flist, "--json").json[0]["changed"]
    fill(warm, 1000, 150)
    assert missing(warm, packed) > 0


def test_a_pin_of_what_is_gone_is_harmless(warm: Path, packed: Packed, zerofs: Zerofs) -> None:
    zerofs("pin", "--cache", warm, packed.flist)
    for index in (warm / "flists").glob("*.index-*"):
        index.unlink()
    (warm / "flists" / ("0" * 64 + ".pin")).write_bytes(b"not JSON")
    fill(warm, 0, 150)
    told = zerofs("df", "--cache", warm, "--json").json["flists"]
    assert [(each["pinned"], each["compiled"]) for each in told] == [(True, False)] * 2
    assert "not compiled here" in zerofs("df", "--cache", warm).out


def test_df_tells_bytes_and_bounds(warm: Path, packed: Packed, zerofs: Zerofs) -> None:
    told = zerofs("df", "--cache", warm, "--json").json
    assert told["size_limit"] == 16 << 20 and told["free_limit"] > 0
    assert 0 < told["used"] <= told["file"] == (warm / "data.mdb").stat().st_size
    (flist,) = told["flists"]
    assert told["entries"] == flist["chunks"] and flist["bytes"] == flist["bytes_cached"] > 0
    assert "16.0 MiB" in zerofs("df", "--cache", warm).out


def test_gc_says_first_and_then_does(warm: Path, packed: Packed, zerofs: Zerofs) -> None:
    names = fill(warm, 0, 20)
    state = warm / "flists"
    litter = [warm / "data.mdb.bad-1", state / ("1" * 64 + ".index-0"), state / ".memo-old"]
    for path in litter:
        path.write_bytes(b"x" * 5000)
    os.utime(litter[2], (time.time() - 9999,) * 2)
    young = state / ".memo-young"
    young.touch()
    said = zerofs("gc", "--cache", warm, "--unreferenced", "--to", "2M").out
    assert said.count("would free") == 5 and "nothing was changed" in said
    assert all(path.exists() for path in litter)
    told = zerofs("gc", "--cache", warm, "--unreferenced", "--force", "--json").json
    assert (told["done"], told["unreferenced"]) == (True, 20)
    assert [Path(file["path"]) for file in told["files"]] == litter
    assert not any(path.exists() for path in litter) and young.exists()
    assert told["file_freed"] > 3_000_000
    with ChunkCache(warm, size_limit=None) as cache:
        assert not any(cache.has_many(names)) and cache.size_limit == 16 << 20
    assert missing(warm, packed) == 0


def test_gc_evicts_down_to_what_it_is_told(warm: Path, packed: Packed, zerofs: Zerofs) -> None:
    fill(warm, 0, 30)
    told = zerofs("gc", "--cache", warm, "--to", "3M", "--force", "--json").json
    assert told["left"] <= 3 << 20 and told["evicted"] > 0
    assert (warm / "data.mdb").stat().st_size < 4 << 20
    zerofs("pin", "--cache", warm, packed.flist)
    zerofs("warmup", "--cache", warm, "--all", packed.flist)
    assert "pinned takes more" in zerofs("gc", "--cache", warm, "--to", "1M", "--force", status=6).err
    assert missing(warm, packed) == 0


def test_gc_beside_a_user_leaves_the_file_where_it_is(warm: Path, packed: Packed, zerofs: Zerofs) -> None:
    with ChunkCache(warm, size_limit=None):
        inode = (warm / "data.mdb").stat().st_ino
        told = zerofs("gc", "--cache", warm, "--to", "1M", "--force", "--json").json
        assert told["file_freed"] is None and told["left"] <= 1 << 20
        assert (warm / "data.mdb").stat().st_ino == inode


def test_fsck_finds_what_a_checksum_cannot(warm: Path, packed: Packed, zerofs: Zerofs) -> None:
    sound = zerofs("fsck", "--cache", warm, "--json").json
    assert sound["entries"] > 50 and not sound["damaged"]
    with ChunkCache(warm, size_limit=None) as cache:
        wrong = b"\x02" + bytes(16)
        cache.put_many([(wrong, b"bytes of another"), (b"\x00unknown", b"?"), (b"\x77odd", b"?")])
    data = bytearray((warm / "data.mdb").read_bytes())
    content = (packed.tree / "long").read_bytes()[:CHUNK_SIZE]  # only here: zeros, say, are in free pages too
    index = Index.open(next((warm / "flists").glob("*.index-*")))
    names = [cache_name(index.chunk(number).key) for number in range(index.chunk_count)]
    with ChunkCache(warm, size_limit=None) as cache, cache.snapshot() as snapshot:
        (rotten,) = [name for name in names if snapshot.read(name) == content]
    data[data.index(content)] ^= 1
    (warm / "data.mdb").write_bytes(data)
    found = run_status(zerofs, warm)
    assert wrong.hex() in found["damaged"] and b"\x77odd".hex() in found["damaged"]
    assert rotten.hex() in found["damaged"]
    assert (len(found["damaged"]), found["unverifiable"], found["repaired"]) == (3, 1, 0)
    assert zerofs("fsck", "--cache", warm, "--repair", "--json").json["repaired"] == 3
    assert "0 damaged" in zerofs("fsck", "--cache", warm).out


def run_status(zerofs: Zerofs, warm: Path) -> dict[str, object]:
    """What a failing ``fsck --json`` says: it has no message."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["fsck", "--json", "--cache", str(warm)]) == 1
    value = json.loads(out.getvalue())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("command", ["df", "gc", "fsck"])
def test_where_there_is_no_cache(command: str, tmp_path: Path, zerofs: Zerofs) -> None:
    assert "there is no cache" in zerofs(command, "--cache", tmp_path / "none", status=6).err
    assert not (tmp_path / "none").exists()
    assert "--cache" in zerofs(command, status=2).err


def test_bad_words(warm: Path, packed: Packed, zerofs: Zerofs, sandbox: Sandbox, tmp_path: Path) -> None:
    assert "not a size" in zerofs("gc", "--cache", warm, "--to", "much", status=2).err
    assert "nothing.flist" in zerofs("pin", "--cache", warm, tmp_path / "nothing.flist", status=3).err
    zerofs("unpin", "--cache", warm, "f" * 64, status=3)
    zerofs("pin", "--cache", warm, status=2)
    for option in ("--cache-free=much", "--cache-free=-1"):
        done = sandbox.run("zerofs", "mount", "--meta", packed.flist, option, tmp_path, status=2)
        assert b"disk space" in done.stderr  # a process of its own: a mount goes on to ignore signals
