"""Mounts whose cache is much smaller than what is read: every byte right, the bound kept, what matters kept longest."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Image, write
from tests.support.sandbox import MountProcess, Sandbox
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import cache_name
from zerofs.flist.index import Index

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

CHUNK = 512 * 1024
BOUND = 16 << 20
PIECE = random.Random(2).randbytes(CHUNK - 8)
SMALL = random.Random(3).randbytes(3 * CHUNK)

Mounted = Callable[..., MountProcess]


def piece(number: int) -> bytes:
    return number.to_bytes(8, "big") + PIECE


@pytest.fixture
def large(pack: Callable[..., Image]) -> Image:
    """A file of 200 MiB."""

    def fill(root: Path) -> None:
        with (root / "large").open("wb") as file:
            for number in range(400):
                file.write(piece(number))

    return pack("large", fill)


@pytest.fixture
def small(pack: Callable[..., Image]) -> Image:
    return pack("small", lambda root: write(root / "small", SMALL))


def read_all(path: Path) -> None:
    """Compare the large file, and forget its pages, which the kernel would keep."""
    with path.open("rb") as file:
        for number in range(400):
            assert file.read(CHUNK) == piece(number), number
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stats(sandbox: Sandbox, mount: MountProcess) -> Any:
    return json.loads(sandbox.run("zerofs", "stats", "--json", mount.target).stdout)


def held(cache: Path, image_chunks: int, state: Path) -> int:
    """How many chunks of the flist with so many chunks are in the cache."""
    index = next(i for i in map(Index.open, state.glob("*.index-*")) if i.chunk_count == image_chunks)
    with ChunkCache(cache, size_limit=None) as opened:
        return sum(opened.has_many([cache_name(index.chunk(n).key) for n in range(index.chunk_count)]))


def test_a_large_file_streams_through(large: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    cache = sandbox.path / "cache"
    mount = mounted(large, "--cache-size", "16M", "--cache-free", "0")
    sizes: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            sizes.append((cache / "data.mdb").stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        read_all(mount.target / "large")
        read_all(mount.target / "large")
    finally:
        ended.set()
        watcher.join()
    said = stats(sandbox, mount)
    assert BOUND * 0.8 < max(sizes) <= BOUND
    assert said["cache"]["evicted"] > 100
    assert said["cache"]["errors"] == said["cache"]["damaged"] == said["reads"]["failed"] == 0


def test_pins_and_working_sets_outlive_a_stream(
    large: Image, small: Image, mounted: Mounted, sandbox: Sandbox
) -> None:
    cache = sandbox.path / "cache"
    sizes = ("--cache-size", "16M", "--cache-free", "0", "--prefetch", "off")
    mount = mounted(small, *sizes)
    assert (mount.target / "small").read_bytes() == SMALL
    sandbox.run("zerofs", "pin", "--cache", cache, small.flist)
    stream = mounted(large, *sizes, target=sandbox.path / "stream")
    read_all(stream.target / "large")
    assert held(cache, 3, cache / "flists") == 3
    told = json.loads(sandbox.run("zerofs", "df", "--cache", cache, "--json").stdout)
    assert [(each["pinned"], each["mounted"]) for each in told["flists"] if each["chunks"] == 3] == [
        (True, True)
    ]
    (mounted_ones,) = [sum(each["mounted"] for each in told["flists"])]
    assert mounted_ones == 2


def test_a_corrupt_entry_is_fetched_again(small: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    cache = sandbox.path / "cache"
    first = mounted(small, "--prefetch", "off", "--cache-free", "0")
    assert (first.target / "small").read_bytes() == SMALL
    first.stop()
    data = bytearray((cache / "data.mdb").read_bytes())
    places = [at for at in range(0, len(data), 8) if data[at : at + 64] == SMALL[CHUNK : CHUNK + 64]]
    assert places
    for at in places:  # a page that is free may hold a copy
        data[at + 1000] ^= 1
    (cache / "data.mdb").write_bytes(data)
    again = mounted(small, "--prefetch", "off", "--cache-free", "0")
    assert (again.target / "small").read_bytes() == SMALL
    end = time.monotonic() + 20
    while (said := stats(sandbox, again))["cache"]["stored"] < 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert (said["cache"]["damaged"], said["cache"]["stored"], said["reads"]["failed"]) == (1, 1, 0)
    assert said["fetch"]["fetched"] == 1
    sandbox.run("zerofs", "fsck", "--cache", cache)
