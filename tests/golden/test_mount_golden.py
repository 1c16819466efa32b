"""Both golden flists, mounted by the drop-in command, show their listing to the byte."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.golden import Golden, load_directory
from tests.support.manifest import manifest
from tests.support.mounts import mounted_at
from tests.support.redisserver import RedisServer
from tests.support.sandbox import Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a listing with every owner takes root")


@pytest.fixture(params=["redis", "dir"])
def store_url(
    request: pytest.FixtureRequest,
    golden_flist: Golden,
    redis_server: Callable[..., RedisServer],
    tmp_path: Path,
) -> str:
    """The URL of a store that holds the flist's chunks."""
    if request.param == "redis":
        server = redis_server()
        server.load(golden_flist.chunks())
        return server.url
    load_directory(tmp_path / "store", golden_flist.chunks())
    return f"dir://{tmp_path / 'store'}"


def test_read_only(sandbox: Sandbox, golden_flist: Golden, store_url: str) -> None:
    mount = sandbox.mount(
        "--storage-url", store_url, "--ro", "--cache", sandbox.path / "ca", "--meta", golden_flist.flist
    )
    kernel = mounted_at(mount.target)
    assert kernel is not None
    assert (kernel.type, kernel.source) == ("fuse.g8ufs", str(mount.pid))
    assert list(manifest(mount.target)) == golden_flist.manifest()
    assert mount.stop() == 0


def test_read_write(sandbox: Sandbox, golden_flist: Golden, store_url: str) -> None:
    backend = sandbox.directory("backend")
    mount = sandbox.mount(
        *("--reset", "--backend", backend, "--cache", sandbox.path / "ca", "--log", sandbox.path / "log"),
        *("--meta", golden_flist.flist, "--storage-url", store_url),
    )
    kernel = mounted_at(mount.target)
    assert kernel is not None
    assert kernel.type == "overlay"
    assert list(manifest(mount.target)) == golden_flist.manifest()
    assert mount.stop() == 0


def test_again_from_the_cache_alone(sandbox: Sandbox, golden_flist: Golden, tmp_path: Path) -> None:
    """What was read once needs no store: the second mount is given one that holds nothing."""
    load_directory(tmp_path / "store", golden_flist.chunks())
    (tmp_path / "nothing").mkdir()
    for store in ("store", "nothing"):
        mount = sandbox.mount(
            *("--storage-url", f"dir://{tmp_path / store}", "--ro"),
            *("--cache", sandbox.path / "ca", "--meta", golden_flist.flist),
        )
        assert list(manifest(mount.target)) == golden_flist.manifest()
        assert mount.stop() == 0


def test_links_and_blocks_are_counted(sandbox: Sandbox, golden_flist: Golden, tmp_path: Path) -> None:
    """What the listing leaves out: link counts of directories, blocks of files."""
    load_directory(tmp_path / "store", golden_flist.chunks())
    mount = sandbox.mount(
        *("--storage-url", f"dir://{tmp_path / 'store'}", "--ro"),
        *("--cache", sandbox.path / "ca", "--meta", golden_flist.flist),
    )
    for directory, directories, files in os.walk(mount.target):
        below = [name for name in directories if not (Path(directory) / name).is_symlink()]
        assert os.lstat(directory).st_nlink == 2 + len(below)
        for name in files:
            status = os.lstat(Path(directory) / name)
            if stat.S_ISREG(status.st_mode):
                assert status.st_blocks == -(-status.st_size // 512)
    assert mount.stop() == 0
