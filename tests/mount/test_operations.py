"""What a read-only mount answers, call by call."""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import write
from tests.support.mounts import mounted_at

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, device nodes and foreign owners take root")

CHUNK = 512 * 1024
BIG = random.Random(7).randbytes(3 * CHUNK + 12345)


def fill(root: Path) -> None:
    write(root / "big", BIG)
    write(root / "dir/small", "small")
    write(root / "dir/empty")
    (root / "dir/deeper").mkdir()
    (root / "link").symlink_to("dir/small")
    (root / "dangling").symlink_to("/nowhere")
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "far", 0o600 | stat.S_IFBLK, os.makedev(259, 70000))
    write(root / "suid", "#!/bin/sh\n").chmod(0o4755)
    write(root / "secret", "secret").chmod(0o600)
    write(root / "shared", "shared").chmod(0o640)
    os.chown(root / "shared", 0, 4242)
    os.utime(root / "dir/small", ns=(1_600_000_000_000_000_000, 1_500_000_000_000_000_000))


@pytest.fixture
def root(pack: Callable[..., object], mounted: Callable[..., object]) -> Path:
    return mounted(pack("tree", fill)).target  # type: ignore[attr-defined,no-any-return]


def raises(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


def test_reads_any_range(root: Path) -> None:
    chance = random.Random(3)
    with (root / "big").open("rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == len(BIG)
        for _ in range(300):
            at = chance.choice(
                [chance.randrange(len(BIG)), chance.randrange(1, 4) * CHUNK - chance.randrange(3)]
            )
            size = chance.choice([1, 2, 4096, 100_000, CHUNK + 1, len(BIG)])
            assert os.pread(file.fileno(), size, at) == BIG[at : at + size]
        assert os.pread(file.fileno(), 10, len(BIG)) == b""
        assert os.pread(file.fileno(), 10, len(BIG) + 99999) == b""


def test_reads_around_the_page_cache(root: Path) -> None:
    descriptor = os.open(root / "big", os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 1 << 20)
        for at in (0, CHUNK - 4096, 2 * CHUNK + 8192):
            count = os.preadv(descriptor, [buffer], at)
            assert buffer[:count] == BIG[at : at + count] and count > 0
    finally:
        os.close(descriptor)


def test_maps(root: Path) -> None:
    with (root / "big").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[CHUNK - 5 : CHUNK + 5] == BIG[CHUNK - 5 : CHUNK + 5]
        assert mapped[:] == BIG


def test_many_readers_at_once(root: Path) -> None:
    results: list[bool] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        with (root / "big").open("rb", buffering=0) as file:
            for _ in range(100):
                at = chance.randrange(len(BIG))
                results.append(os.pread(file.fileno(), 5000, at) == BIG[at : at + 5000])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 800


def test_attributes(root: Path) -> None:
    small = os.lstat(root / "dir/small")
    assert stat.S_IMODE(os.lstat(root / "suid").st_mode) == 0o4755
    assert (small.st_mtime_ns, small.st_size, small.st_nlink) == (1_500_000_000_000_000_000, 5, 1)
    assert small.st_mtime_ns % 10**9 == small.st_atime_ns % 10**9 == small.st_ctime_ns % 10**9 == 0
    assert os.lstat(root / "big").st_blocks == -(-len(BIG) // 512)
    assert os.lstat(root / "dir").st_nlink == 3
    assert os.lstat(root).st_nlink == 3
    assert os.lstat(root / "null").st_rdev == os.makedev(1, 3)
    assert os.lstat(root / "far").st_rdev == os.makedev(259, 70000)
    assert stat.S_ISFIFO(os.lstat(root / "pipe").st_mode)
    assert os.lstat(root / "link").st_size == len("dir/small")
    assert os.readlink(root / "dangling") == "/nowhere"
    raises(errno.EINVAL, os.readlink, root / "big")


def test_inode_numbers_are_stable_and_distinct(root: Path) -> None:
    def numbers() -> dict[str, int]:
        return {entry.path: entry.inode() for entry in os.scandir(root)} | {
            str(path): path.lstat().st_ino for path in root.rglob("*")
        }

    before = numbers()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert numbers() == before
    assert len(set(before.values())) == len(before)


def test_listing(root: Path) -> None:
    assert sorted(os.listdir(root)) == sorted(
        ["big", "dir", "link", "dangling", "pipe", "null", "far", "suid", "secret", "shared"]
    )
    kinds = {
        entry.name: (entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in os.scandir(root)
    }
    assert kinds["dir"] == (True, False) and kinds["link"] == (False, True) and kinds["big"] == (False, False)
    said = subprocess.run(["ls", "-1a", root / "dir"], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [".", "..", "deeper", "empty", "small"]


def test_missing_names(root: Path) -> None:
    for _ in range(2):  # the second answer is the kernel's own
        raises(errno.ENOENT, os.stat, root / "nothing")
        raises(errno.ENOENT, os.stat, root / "dir" / ("x" * 255))
    raises(errno.ENAMETOOLONG, os.stat, root / ("x" * 256))
    raises(errno.ENOTDIR, os.stat, root / "big" / "below")


def test_takes_no_writes(root: Path) -> None:
    raises(errno.EROFS, os.open, root / "big", os.O_RDWR)
    raises(errno.EROFS, os.open, root / "new", os.O_CREAT | os.O_WRONLY)
    raises(errno.EROFS, os.mkdir, root / "new")
    raises(errno.EROFS, os.unlink, root / "big")
    raises(errno.EROFS, os.rmdir, root / "dir/deeper")
    raises(errno.EROFS, os.rename, root / "big", root / "other")
    raises(errno.EROFS, os.symlink, "x", root / "new")
    raises(errno.EROFS, os.link, root / "big", root / "other")
    raises(errno.EROFS, os.chmod, root / "big", 0o777)
    raises(errno.EROFS, os.chown, root / "big", 1, 1)
    raises(errno.EROFS, os.utime, root / "big")
    raises(errno.EROFS, os.truncate, root / "big", 0)
    raises(errno.EROFS, os.setxattr, root / "big", "user.x", b"1")


def test_extended_attributes_are_none(root: Path, engine: str) -> None:
    raises(errno.ENODATA, os.getxattr, root / "big", "user.x")
    raises(errno.ENODATA, os.getxattr, root / "dir", "security.capability")
    if engine == "llfuse":  # which cannot answer with an empty list
        raises(errno.EOPNOTSUPP, os.listxattr, root / "big")
    else:
        assert os.listxattr(root / "big") == os.listxattr(root / "dir") == []


def test_file_system_statistics(root: Path) -> None:
    figures = os.statvfs(root)
    total = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    assert figures.f_blocks == -(-total // figures.f_frsize)
    assert (figures.f_bfree, figures.f_bavail, figures.f_ffree) == (0, 0, 0)
    assert figures.f_files == 1 + len(list(root.rglob("*")))
    assert figures.f_namemax == 255
    assert figures.f_flag & os.ST_RDONLY


def test_modes_hold_for_every_user(root: Path) -> None:
    """Whom the modes allow may read, whom they do not may not: asked as other users, in a child."""

    def readable(path: Path, uid: int, gid: int) -> bool:
        done = subprocess.run(
            ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "cat", path],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    assert readable(root / "dir/small", 12345, 12345)
    assert not readable(root / "secret", 12345, 12345)
    assert readable(root / "shared", 12345, 4242)
    assert not readable(root / "shared", 12345, 12345)
    assert readable(root / "secret", 0, 0)


def test_set_user_id_and_devices_are_off_unless_asked_for(
    root: Path, pack: Callable[..., object], mounted: Callable[..., object], sandbox: object
) -> None:
    flags = os.statvfs(root).f_flag
    assert flags & os.ST_NOSUID and flags & os.ST_NODEV
    raises(errno.EACCES, lambda: (root / "null").open("rb"))


def test_set_user_id_and_devices_can_be_asked_for(
    pack: Callable[..., object], mounted: Callable[..., object]
) -> None:
    mount = mounted(pack("tree", fill), "-o", "suid,dev")
    flags = os.statvfs(mount.target).f_flag  # type: ignore[attr-defined]
    assert not flags & (os.ST_NOSUID | os.ST_NODEV)
    assert (mount.target / "null").read_bytes() == b""  # type: ignore[attr-defined]


def test_found_by_its_process_id(pack: Callable[..., object], mounted: Callable[..., object]) -> None:
    image = pack("tree", fill)
    mount = mounted(image)
    seen = mounted_at(mount.target)  # type: ignore[attr-defined]
    assert seen is not None and (seen.type, seen.source) == ("fuse.g8ufs", str(mount.pid))  # type: ignore[attr-defined]
    arguments = Path(f"/proc/{mount.pid}/cmdline").read_bytes().split(b"\0")  # type: ignore[attr-defined]
    assert os.fsencode(image.flist) in arguments  # type: ignore[attr-defined]
