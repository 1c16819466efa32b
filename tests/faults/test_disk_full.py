"""Full disks: reads go on without the cache, the log says it once, and writers hear of their own disk's end."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.cache.support import LARGE, chunk, contents
from tests.faults.conftest import counted
from tests.mount.conftest import Image, write
from tests.support.sandbox import MountProcess, Sandbox
from tests.support.waiting import eventually
from zerofs.bench.soak.disk import SmallDisk
from zerofs.cache.datafile import Mapped
from zerofs.cache.environment import PAUSE, Environment
from zerofs.cache.lmdb import ChunkCache

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

CONTENT = {f"f{number}": random.Random(number).randbytes(700_000 + number) for number in range(16)}
NO_PAUSE = """
import sys
if any(word.endswith("g8ufs") for word in sys.orig_argv):
    from zerofs.cache import environment
    environment.PAUSE = 0.0
"""
NOT_USED = "not used for now"  # what the cache says once when its disk is full


@pytest.fixture
def disk(sandbox: Sandbox) -> Iterator[SmallDisk]:
    disk = SmallDisk(sandbox.path / "disk", 6 << 20)
    yield disk
    subprocess.run(["umount", "--lazy", disk.path], check=False)


@pytest.fixture
def image(sandbox: Sandbox) -> Image:
    return Image(sandbox, "image", fill)


def fill(root: Path) -> None:
    for name, content in CONTENT.items():
        write(root / name, content)


def mount(
    sandbox: Sandbox, image: Image, engine: str, *options: str | os.PathLike[str], **keywords: object
) -> MountProcess:
    store = ["--storage-url", f"dir://{image.store}", "--engine", engine, "--meta", image.flist]
    return sandbox.mount(*store, *options, **keywords)  # type: ignore[arg-type]


def test_a_cache_whose_disk_is_full_or_fills_up(
    sandbox: Sandbox, image: Image, disk: SmallDisk, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write is tried, and fails."""
    hook = sandbox.directory("hook")
    (hook / "sitecustomize.py").write_text(NO_PAUSE)
    monkeypatch.setenv("PYTHONPATH", str(hook))
    mounted = mount(
        sandbox,
        image,
        engine,
        "--ro",
        "--prefetch",
        "off",
        "--cache",
        disk.path / "cache",
        "--cache-size",
        "64M",
        allow=[NOT_USED],
    )
    root = mounted.target
    for number in range(2):
        for name, content in CONTENT.items():
            if number == 0 and name == "f4":
                # what the disk took a part of would leave room in the file, and so later writes succeed
                eventually(lambda: counted(sandbox, mounted, "cache")["stored"] == 2 * 4, "four files cached")
                disk.fill()
            assert (root / name).read_bytes() == content
            with (root / name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert counted(sandbox, mounted, "cache")["errors"] > 1
    assert mounted.log().count("WARNING") == 1
    assert mounted.stop() == 0  # before its disk


def test_a_disk_that_is_full_and_one_that_takes_a_part_are_said_once(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """LMDB has another error for either."""
    monkeypatch.setattr("zerofs.cache.environment.PAUSE", 0.0)
    causes: list[str] = []
    trouble = Environment.trouble

    def noted(self: Environment, mapped: Mapped, error: Exception) -> None:
        causes.append(str(error).rpartition(": ")[2])
        trouble(self, mapped, error)

    monkeypatch.setattr(Environment, "trouble", noted)
    with ChunkCache(disk.path / "cache", size_limit=64 << 20) as cache:
        disk.fill()
        assert cache.put_many([chunk(1, LARGE)]) == 0
        disk.empty()
        assert cache.put_many([chunk(1, LARGE)]) == 1
        disk.fill(leave=LARGE // 2)
        assert cache.put_many([chunk(2, LARGE)]) == 0
        disk.empty()
        assert contents(cache, 3) == [chunk(1, LARGE)]
    assert causes == [os.strerror(errno.ENOSPC), os.strerror(errno.EIO)]
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [os.strerror(errno.ENOSPC)]


def test_what_a_disk_took_in_part_is_no_error_of_the_disk(
    disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkCache(disk.path / "cache", size_limit=64 << 20) as cache:
        assert cache.put_many([chunk(1, LARGE)]) == 1
        disk.fill(leave=LARGE // 2)
        assert cache.put_many([chunk(2, LARGE)]) == 0
    assert caplog.messages == [f"cache {disk.path / 'cache'}: not used for now: {os.strerror(errno.ENOSPC)}"]


def test_a_cache_that_evicts_on_a_full_disk(
    sandbox: Sandbox, image: Image, disk: SmallDisk, engine: str
) -> None:
    """Its bound is smaller than the image: room is made in the file, which cannot grow."""
    options = ["--ro", "--prefetch", "off", "--cache-free", "0", "--cache-size", "3M"]
    complaints = [NOT_USED, "full at"]  # all of so small a cache may be held by the mount for a moment
    mounted = mount(sandbox, image, engine, *options, "--cache", disk.path / "cache", allow=complaints)
    root = mounted.target

    def read(names: Iterable[str]) -> None:
        for name in names:
            assert (root / name).read_bytes() == CONTENT[name]
            with (root / name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    read(CONTENT)
    evicted = counted(sandbox, mounted, "cache")["evicted"]
    assert evicted > 0
    disk.fill()

    def evicts() -> bool:
        read([*reversed(CONTENT), *CONTENT])
        return bool(counted(sandbox, mounted, "cache")["evicted"] > evicted)

    # a write under way may just have needed the disk, which keeps the cache from writing for a while
    eventually(evicts, "an eviction", PAUSE + 20)
    assert all(mounted.log().count(said) <= 1 for said in complaints)
    assert mounted.stop() == 0  # before its disk


def test_a_backend_whose_disk_is_full_tells_the_writer_and_reads_on(
    sandbox: Sandbox, image: Image, disk: SmallDisk, engine: str
) -> None:
    backend = disk.path / "backend"
    cache = ["--cache", sandbox.path / "cache"]
    mounted = mount(sandbox, image, engine, "--backend", backend, *cache)
    root = mounted.target
    disk.fill()
    with pytest.raises(OSError) as caught:
        write(root / "new", bytes(1 << 20))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught, (root / "f1").open("r+b") as file:  # copied up, or not at all
        file.write(b"x")
    assert caught.value.errno == errno.ENOSPC
    for name, content in CONTENT.items():
        assert (root / name).read_bytes() == content
    disk.empty()
    write(root / "new", b"there is room again")
    with (root / "f1").open("r+b") as file:
        file.write(b"x")
    assert (root / "f1").read_bytes() == b"x" + CONTENT["f1"][1:]
    assert mounted.stop() == 0  # before its disk


def test_a_layer_in_memory_that_is_full_tells_the_writer(sandbox: Sandbox, image: Image, engine: str) -> None:
    mounted = mount(sandbox, image, engine, "--rw-size", "2M", "--cache", sandbox.path / "cache")
    root = mounted.target
    with pytest.raises(OSError) as caught:
        write(root / "new", bytes(4 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert (root / "f2").read_bytes() == CONTENT["f2"]
    (root / "new").unlink()
    write(root / "new", b"there is room again")
