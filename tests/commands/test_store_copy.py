"""`store copy`: the chunks of a flist in another store, each proven on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import Packed, Zerofs
from tests.support.manifest import manifest
from tests.support.redisserver import RedisServer, free_port


def held(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_copies_what_is_missing(
    zerofs: Zerofs, packed: Packed, tmp_path: Path, redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server(password="s3cret")
    report = zerofs("store", "copy", "--json", packed.flist, "--to", server.url).json
    chunks = held(packed.chunks)
    assert {key.decode(): value for key, value in server.dump().items()} == chunks
    assert report["chunks"] == report["sent"] == len(chunks)
    assert report["present"] == 0
    assert report["sent_payload_bytes"] == sum(map(len, chunks.values()))
    again = zerofs("store", "copy", "--json", packed.flist, "--to", server.url).json
    assert (again["sent"], again["present"]) == (0, len(chunks))
    back = tmp_path / "back"
    zerofs("store", "copy", packed.flist, "--from", server.url, "--to", f"dir://{back}")
    assert held(back) == chunks


def test_only_the_chunks_of_the_flist(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    (packed.chunks / "ff").mkdir(exist_ok=True)
    (packed.chunks / "ff" / ("f" * 64)).write_bytes(b"of another flist")
    zerofs("store", "copy", packed.flist, "--to", f"dir://{tmp_path}/to")
    assert "f" * 64 not in held(tmp_path / "to")


def test_ranges(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    to = ("--to", f"00-7f=dir://{low}", "--to", f"80-ff=dir://{high}")
    zerofs("store", "copy", packed.flist, *to)
    assert held(low) | held(high) == held(packed.chunks)
    assert max(held(low)) < "8" <= min(held(high))


def damage(packed: Packed) -> str:
    name = min(held(packed.chunks))
    (packed.chunks / name[:2] / name).write_bytes(b"damaged")
    return name


def test_a_damaged_chunk_is_not_copied(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    name = damage(packed)
    to = f"dir://{tmp_path}/to"
    assert name in zerofs("store", "copy", packed.flist, "--to", to, status=1).err
    assert name not in held(tmp_path / "to")
    zerofs("store", "copy", "--no-verify", packed.flist, "--to", to)
    assert held(tmp_path / "to")[name] == b"damaged"


def test_a_sound_replica_stands_in(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    zerofs("store", "copy", packed.flist, "--to", f"dir://{tmp_path}/replica")
    name = damage(packed)
    router = tmp_path / "router.yaml"
    router.write_text(
        f"pools:\n  a:\n    0:F: dir://{packed.chunks}\n    00:FF: dir://{tmp_path}/replica\nlookup: [a]\n"
    )
    options = ("--local-router", router, "--to", f"dir://{tmp_path}/to")
    zerofs("store", "copy", packed.flist, *options)
    assert held(tmp_path / "to") == held(tmp_path / "replica")
    assert held(tmp_path / "to")[name] != b"damaged"
    (tmp_path / "store").mkdir()
    zerofs("unpack", "--local-router", router, packed.flist, tmp_path / "out")
    assert list(manifest(tmp_path / "out")) == list(manifest(packed.tree))


def test_bad_destinations(zerofs: Zerofs, packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROFS_STORE", raising=False)
    zerofs("store", "copy", packed.flist, status=2)
    zerofs("store", "copy", packed.flist, "--to", "00-7f=dir:///tmp/x", status=4)
    url = f"redis://127.0.0.1:{free_port()}"
    assert url in zerofs("store", "copy", "--timeout", "0.3", packed.flist, "--to", url, status=1).err
