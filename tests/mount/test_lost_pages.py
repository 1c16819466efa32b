"""Files under a living mount that lose pages: the mount goes on, and nobody reads a wrong byte."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Image, holding
from tests.support.sandbox import MountProcess, Sandbox
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

CONTENT = {f"d{n % 5}/f{n}": random.Random(n).randbytes((n * 41_000) % 1_500_000) for n in range(50)}
# another thread may come across the page of zeros before the one that faulted has dealt with it
LOST = [
    "cannot give a page",
    "damaged",
    "lies where another belongs",
    "cannot be read",
    "not used for now",
    "No space",
    "I/O error",
]


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", holding(CONTENT))


def read(mount: MountProcess, name: str) -> bytes | int:
    """The content, past the kernel's own copy of it, or the errno of the failure."""
    try:
        descriptor = os.open(mount.target / name, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.pread(descriptor, len(CONTENT[name]) + 1, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        assert error.errno is not None
        return error.errno


def wrong(mount: MountProcess) -> dict[str, str]:
    """What cannot be read as it should."""
    found = {name: read(mount, name) for name in CONTENT}
    return {
        name: os.strerror(content) if isinstance(content, int) else f"{len(content)} wrong bytes"
        for name, content in found.items()
        if content != CONTENT[name]
    }


def is_cached(sandbox: Sandbox, mount: MountProcess) -> bool:
    """Whether all that was fetched, ahead or not, lies in the cache."""
    told = json.loads(sandbox.run("zerofs", "stats", "--json", mount.target).stdout)
    return bool(told["fetch"]["fetched"] == told["cache"]["stored"] > 0)


def test_a_cache_that_is_cut_under_a_mount_is_fetched_again(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    mount = mounted(image, allow=LOST)
    assert wrong(mount) == {}
    eventually(lambda: is_cached(sandbox, mount), "all of it in the cache")
    for size in (8 << 20, 1 << 20, 4096, 0):
        os.truncate(sandbox.path / "cache" / "data.mdb", size)
        assert wrong(mount) == {}
    assert mount.stop() == 0


def test_an_index_that_is_cut_under_a_mount_is_an_error_until_it_is_back(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    mount = mounted(image, allow=LOST)
    (index,) = (sandbox.path / "cache" / "flists").glob("*.index-1")
    whole = index.read_bytes()
    os.truncate(index, 0)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    failed = 0
    for name, content in CONTENT.items():
        found = read(mount, name)
        assert found in (content, errno.EIO)
        failed += found == errno.EIO
    assert failed > 0
    with contextlib.suppress(OSError):
        assert set(os.listdir(mount.target)) == {f"d{n}" for n in range(5)}
    with index.open("r+b") as file:
        file.write(whole)
    eventually(lambda: not wrong(mount), "every byte, since the index is back")
    assert mount.stop() == 0


@pytest.fixture
def dying_disk(sandbox: Sandbox) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A directory on a disk of its own, and what makes all that was not read yet unreadable."""
    backing = sandbox.path / "disk"
    with backing.open("wb") as file:
        file.truncate(256 << 20)
    place = sandbox.directory("on-disk")
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", backing], check=True)
    subprocess.run(["mount", "-o", "loop", backing, place], check=True)

    def die() -> None:
        os.sync()
        os.truncate(backing, 1 << 20)
        Path("/proc/sys/vm/drop_caches").write_text("3")

    try:
        yield place, die
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_dies_under_cache_and_index(
    image: Image,
    mounted: Callable[..., MountProcess],
    dying_disk: tuple[Path, Callable[[], None]],
    sandbox: Sandbox,
) -> None:
    place, die = dying_disk
    mount = mounted(
        image,
        "--cache",
        place / "cache",
        allow=[*LOST, "cannot be opened", "no new one", "not all of it", "while unmounting"],
    )
    some = list(CONTENT)[::3]
    assert all(read(mount, name) == CONTENT[name] for name in some)
    eventually(lambda: is_cached(sandbox, mount), "what was read in the cache")
    die()
    for _ in range(3):
        for name, content in CONTENT.items():
            assert read(mount, name) in (content, errno.EIO)
    assert mount.process.poll() is None
    assert mount.stop() == 0
