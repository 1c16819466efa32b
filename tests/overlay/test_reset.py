"""Emptying a backend, which must never reach outside of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox
from zerofs.errors import BackendError
from zerofs.mount import emptying
from zerofs.mount._linux import MS_BIND, mount
from zerofs.mount.backend import open_backend
from zerofs.mount.unmount import unmount

_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10


@pytest.fixture
def outside(sandbox: Sandbox) -> Path:
    """A directory that no reset may touch."""
    place = sandbox.directory("outside")
    (place / "precious").write_text("precious")
    return place


def _reset(sandbox: Sandbox, backend: Path, *, keep: tuple[Path, ...] = (), target: str = "mnt") -> None:
    with open_backend(backend) as taken:
        taken.reset(target=sandbox.path / target, keep=keep)


def test_everything_goes(sandbox: Sandbox) -> None:
    place = sandbox.directory("backend")
    for name in ("rw/a/b/c", "wd/work", "ca", "odd\n\\ name"):
        (place / name).mkdir(parents=True)
    (place / "wd/work").chmod(0)
    (place / "rw/a/file").write_text("x")
    os.mknod(place / "rw/whiteout", 0o20000, 0)
    os.mkfifo(place / "rw/fifo")
    os.mkdir(os.fsencode(place) + b"/\xff\xfe")
    (place / ".layered").write_text("x")
    _reset(sandbox, place)
    assert os.listdir(place) == []


def test_links_are_removed_and_not_followed(sandbox: Sandbox, outside: Path) -> None:
    place = sandbox.directory("backend")
    (place / "rw").symlink_to(outside)
    (place / "file").symlink_to(outside / "precious")
    (place / "up").symlink_to("..")
    _reset(sandbox, place)
    assert os.listdir(place) == []
    assert (outside / "precious").read_text() == "precious"


def test_mounts_inside_are_left_alone(
    sandbox: Sandbox, outside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = sandbox.directory("backend")
    directory = sandbox.directory("backend/rw/deep/bound")  # of the same device: only the mount tells
    file = sandbox.directory("backend/rw/files") / "bound"
    file.touch()
    sandbox.directory("backend/rw/beside")
    mount(outside, directory, None, MS_BIND)
    mount(outside / "precious", file, None, MS_BIND)
    try:
        _reset(sandbox, place)
        assert (outside / "precious").read_text() == "precious"
        assert (directory / "precious").exists()
        assert sorted(os.listdir(place / "rw")) == ["deep", "files"]
        assert "2 mounts inside the backend" in caplog.text
    finally:
        unmount(directory)
        unmount(file)


def test_a_backend_that_is_a_mount_point_is_emptied_and_stays_mounted(sandbox: Sandbox) -> None:
    place = sandbox.directory("backend")
    mount("none", place, "tmpfs")
    try:
        (place / "rw").mkdir()
        before = place.stat().st_dev
        _reset(sandbox, place)
        assert os.listdir(place) == []
        assert place.stat().st_dev == before
    finally:
        unmount(place)


def test_a_backend_that_is_a_bind_mount(sandbox: Sandbox) -> None:
    place, disk = sandbox.directory("backend"), sandbox.directory("disk")
    (disk / "rw").mkdir()
    mount(disk, place, None, MS_BIND)
    try:
        _reset(sandbox, place)
        assert os.listdir(disk) == []
    finally:
        unmount(place)


def test_a_backend_that_is_a_btrfs_subvolume(sandbox: Sandbox) -> None:
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("no package btrfs-progs")
    if "btrfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("the kernel has no btrfs")
    image, disk = sandbox.path / "btrfs", sandbox.directory("disk")
    with image.open("wb") as file:
        file.truncate(120 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        for name in ("backend", "backend/inner"):
            subprocess.run(
                ["btrfs", "subvolume", "create", disk / name], check=True, stdout=subprocess.DEVNULL
            )
        (disk / "backend/inner/file").touch()
        _reset(sandbox, disk / "backend")
        assert os.listdir(disk / "backend") == []
        shown = subprocess.run(
            ["btrfs", "subvolume", "list", disk], check=True, capture_output=True, text=True
        )
        assert [line.split()[-1] for line in shown.stdout.splitlines()] == ["backend"]
    finally:
        unmount(disk)


def test_the_log_survives_with_the_directories_on_its_way(sandbox: Sandbox) -> None:
    place = sandbox.directory("backend")
    for name in ("logs/deep/mount.log", "logs/deep/other", "logs/other", "rw/file"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    _reset(sandbox, place, keep=(place / "logs/deep/mount.log",))
    assert [path.relative_to(place) for path in sorted(place.rglob("*"))] == [
        Path("logs"),
        Path("logs/deep"),
        Path("logs/deep/mount.log"),
    ]


def test_a_log_named_through_a_link_or_not_there_yet(sandbox: Sandbox) -> None:
    place = sandbox.directory("backend")
    (place / "log").write_text("log")
    (place / "rest").write_text("rest")
    (sandbox.path / "way").symlink_to(place)
    _reset(sandbox, place, keep=(sandbox.path / "way/log", place / "not-there", sandbox.path / "beside"))
    assert os.listdir(place) == ["log"]


def test_a_mount_point_inside_the_backend_stays(sandbox: Sandbox) -> None:
    place = sandbox.directory("backend")
    sandbox.directory("backend/mnt")
    sandbox.directory("backend/rw")
    _reset(sandbox, place, target="backend/mnt")
    assert os.listdir(place) == ["mnt"]


def test_deeper_than_recursion_and_descriptors_go(sandbox: Sandbox) -> None:
    place = sandbox.directory("backend")
    here = os.open(place, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    _reset(sandbox, place)
    assert os.listdir(place) == []


def test_a_directory_that_is_moved_away_meanwhile(
    sandbox: Sandbox, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = sandbox.directory("backend")
    sandbox.directory("backend/rw/moving")
    real = emptying.open_beneath

    def move_once_inside(dir_fd: int, name: str, flags: int) -> int:
        fd = real(dir_fd, name, flags)
        if name == "moving":
            (place / "rw/moving").rename(outside / "moving")
        return fd

    monkeypatch.setattr(emptying, "open_beneath", move_once_inside)
    with pytest.raises(BackendError, match="moved away"):
        _reset(sandbox, place)
    assert (outside / "precious").read_text() == "precious"


def _set_immutable(path: Path, on: bool) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        flags = struct.unpack("l", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8)))[0] & ~_FS_IMMUTABLE_FL
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("l", flags | (_FS_IMMUTABLE_FL if on else 0)))
    finally:
        os.close(fd)


def test_an_immutable_file_is_named(sandbox: Sandbox) -> None:
    place = sandbox.directory("backend")
    file = sandbox.directory("backend/rw") / "fixed"
    file.touch()
    _set_immutable(file, True)
    try:
        with pytest.raises(BackendError, match="rw/fixed: Operation not permitted") as caught:
            _reset(sandbox, place)
        assert "chattr" in caught.value.hint
    finally:
        _set_immutable(file, False)


def test_who_writes_meanwhile_is_noticed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    place = sandbox.directory("backend")
    sandbox.directory("backend/rw")
    real = emptying._Walk._ascend

    def write_first(walk: emptying._Walk, level: emptying._Level) -> None:
        if level.name == "rw":
            (place / "rw/late").touch()
        real(walk, level)

    monkeypatch.setattr(emptying._Walk, "_ascend", write_first)
    with pytest.raises(BackendError, match="rw: Directory not empty") as caught:
        _reset(sandbox, place)
    assert "still writes" in caught.value.hint


# -- what is refused -----------------------------------------------------------------------


def test_the_target_is_refused(sandbox: Sandbox) -> None:
    place = sandbox.directory("mnt")
    (place / "precious").touch()
    with open_backend(place) as backend, pytest.raises(BackendError, match="mount point"):
        backend.reset(target=place)
    (sandbox.path / "link").symlink_to(place)
    with open_backend(place) as backend, pytest.raises(BackendError, match="mount point"):
        backend.reset(target=sandbox.path / "link")
    assert (place / "precious").exists()


@pytest.mark.parametrize("below", ["", "home/someone"])
def test_a_home_directory_and_what_holds_one_is_refused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    home = sandbox.directory(f"place/{below}")
    (home / "precious").touch()
    monkeypatch.setenv("HOME", os.fspath(home))
    with pytest.raises(BackendError, match="home directory"):
        _reset(sandbox, sandbox.path / "place")
    assert (home / "precious").exists()


def test_a_backend_inside_a_home_directory_is_fine(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.fspath(sandbox.path))
    (sandbox.directory("backend") / "rw").mkdir()
    _reset(sandbox, sandbox.path / "backend")
    assert os.listdir(sandbox.path / "backend") == []


@pytest.mark.parametrize("place", ["/", "/root", "/home"])
def test_the_root_and_the_homes_of_this_host_are_refused(place: str) -> None:
    script = (  # with nothing that could empty anything
        "from pathlib import Path\n"
        "from zerofs.mount import backend, emptying\n"
        "emptying.empty = lambda *a, **k: exit('emptied')\n"
        f"with backend.open_backend(Path({place!r})) as taken: taken.reset(target=Path('/mnt'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "refusing to empty" in done.stderr
