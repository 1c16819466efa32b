"""Chunks that cannot be had: EIO on that read alone, soon, and nothing wrong is ever served or kept."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.reads import fails
from tests.support.redisserver import RedisServer, free_port
from tests.support.sandbox import MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

ALLOWED = [
    "a read failed",
    "of the flist has",
    "do not verify",
]  # what a mount says of chunks that it cannot have
CHUNK = 512 * 1024
CONTENT = {"small": b"small", "other": b"other", "big": random.Random(1).randbytes(2 * CHUNK + 100)}


def fill(root: Path) -> None:
    for name, content in CONTENT.items():
        write(root / name, content)


@pytest.fixture(params=["rocksdb", "sqlite", "fl"])
def image(request: pytest.FixtureRequest, pack: Callable[..., Image]) -> Image:
    return pack("image", fill, request.param)


def spoil(image: Image, change: Callable[[bytes], bytes]) -> None:
    """Change the smallest chunks: those of `small` and `other`."""
    for path in sorted(image.chunks(), key=lambda path: path.stat().st_size)[:2]:
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload[:-1] + bytes([payload[-1] ^ 1]),
        lambda payload: payload[: len(payload) // 2],
        lambda payload: payload + b"more",
        lambda payload: b"",
        lambda payload: bytes(len(payload)),
    ],
    ids=["flipped-bit", "cut", "longer", "empty", "zeros"],
)
def test_corrupt_chunk(
    image: Image, mounted: Callable[..., MountProcess], change: Callable[[bytes], bytes], sandbox: Sandbox
) -> None:
    whole = {path: path.read_bytes() for path in image.chunks()}
    spoil(image, change)
    mount = mounted(image, allow=ALLOWED)
    fails(mount.target / "small")
    fails(mount.target / "other")
    assert (mount.target / "big").read_bytes() == CONTENT["big"]
    mount.stop()
    for path, content in whole.items():  # nothing of it was kept: once the store is right, so is the mount
        path.write_bytes(content)
    mount = mounted(image)
    assert (mount.target / "small").read_bytes() == CONTENT["small"]


def test_missing_chunk(image: Image, mounted: Callable[..., MountProcess]) -> None:
    big = max(image.chunks(), key=lambda path: path.stat().st_size)
    big.unlink()
    mount = mounted(image, allow=ALLOWED)
    fails(mount.target / "big")
    assert (mount.target / "small").read_bytes() == CONTENT["small"]
    # a part that is not missing can still be read
    with (mount.target / "big").open("rb", buffering=0) as file:
        readable = [at for at in (0, CHUNK, 2 * CHUNK) if _reads(file.fileno(), at)]
    assert len(readable) == 2


def _reads(descriptor: int, at: int) -> bool:
    try:
        return os.pread(descriptor, 100, at) == CONTENT["big"][at : at + 100]
    except OSError as error:
        assert error.errno == errno.EIO
        return False


def test_missing_chunk_heals(pack: Callable[..., Image], mounted: Callable[..., MountProcess]) -> None:
    image = pack("image", fill)
    kept = {path: path.read_bytes() for path in image.chunks()}
    for path in kept:
        path.unlink()
    mount = mounted(image, allow=ALLOWED)
    fails(mount.target / "small")
    for path, content in kept.items():
        path.write_bytes(content)
    end = time.monotonic() + 15
    while True:  # a failure is remembered for some seconds
        try:
            assert (mount.target / "small").read_bytes() == CONTENT["small"]
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_chunk_of_wrong_size(pack: Callable[..., Image], mounted: Callable[..., MountProcess]) -> None:
    """A sound chunk that is shorter or longer than the file says."""
    image = pack("image", fill, "fl")
    for size in (6, 4):
        with sqlite3.connect(image.flist) as database:
            database.execute("UPDATE inode SET size = ? WHERE name = 'small'", (size,))
        mount = mounted(image, allow=ALLOWED)
        fails(mount.target / "small")
        assert (mount.target / "other").read_bytes() == CONTENT["other"]
        mount.stop()


def test_file_that_is_longer_than_its_chunks(
    pack: Callable[..., Image], mounted: Callable[..., MountProcess]
) -> None:
    """The reference writer loses the tail of files of certain sizes: all before it reads, the tail is EIO."""
    image = pack("image", fill, "fl")
    with sqlite3.connect(image.flist) as database:
        (ino,) = database.execute("SELECT ino FROM inode WHERE name = 'big'").fetchone()
        database.execute(
            "DELETE FROM block WHERE rowid = (SELECT max(rowid) FROM block WHERE ino = ?)", (ino,)
        )
    mount = mounted(image, allow=ALLOWED)
    path = mount.target / "big"
    assert path.stat().st_size == len(CONTENT["big"])
    with path.open("rb", buffering=0) as file:
        got = b""
        while len(got) < 2 * CHUNK:
            got += os.pread(file.fileno(), 65536, len(got))
        assert got == CONTENT["big"][: 2 * CHUNK]
    fails(path)


def test_unreachable_store(pack: Callable[..., Image], mounted: Callable[..., MountProcess]) -> None:
    image = pack("image", fill)
    url = f"redis://127.0.0.1:{free_port()}"
    mount = mounted(image, "--storage-url", url, "--timeout", "2", allow=ALLOWED)
    assert fails(mount.target / "small") < 10
    assert fails(mount.target / "small") < 10
    assert sorted(os.listdir(mount.target)) == sorted(CONTENT)  # the tree is there all the same


def test_store_that_never_answers(pack: Callable[..., Image], mounted: Callable[..., MountProcess]) -> None:
    import socket

    image = pack("image", fill)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        mount = mounted(image, "--storage-url", url, "--timeout", "2", allow=ALLOWED)
        readers = [
            subprocess.Popen(
                ["cat", mount.target / name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for name in CONTENT
            for _ in range(3)
        ]
        started = time.monotonic()
        assert os.stat(mount.target / "big").st_size == len(CONTENT["big"])
        for reader in readers:
            assert reader.wait(timeout=15) == 1
        assert time.monotonic() - started < 12
        assert mount.stop() == 0


def test_wrong_password(
    pack: Callable[..., Image], mounted: Callable[..., MountProcess], redis_server: Callable[..., RedisServer]
) -> None:
    image = pack("image", fill)
    server = redis_server(password="right")
    url = f"redis://:hunter2@127.0.0.1:{server.port}"
    mount = mounted(image, "--storage-url", url, "--timeout", "5", allow=ALLOWED)
    fails(mount.target / "small")
    assert "password" in mount.log() and "hunter2" not in mount.log()


def test_warm_data_needs_no_store(pack: Callable[..., Image], mounted: Callable[..., MountProcess]) -> None:
    image = pack("image", fill)
    mount = mounted(image)
    for name, content in CONTENT.items():
        assert (mount.target / name).read_bytes() == content
    mount.stop()
    url = f"redis://127.0.0.1:{free_port()}"
    mount = mounted(image, "--storage-url", url, "--timeout", "2")
    for name, content in CONTENT.items():
        assert (mount.target / name).read_bytes() == content
    assert mount.stop() == 0


def test_cache_that_is_full(
    pack: Callable[..., Image], mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    content = random.Random(2).randbytes(20 * CHUNK)
    image = pack("large", lambda root: write(root / "large", content))
    mount = mounted(image, "--cache-size", "4M", allow=["full at"])
    assert (mount.target / "large").read_bytes() == content
    assert (sandbox.path / "cache" / "data.mdb").stat().st_size <= 4 << 20
