"""Where a cache lies: hosts that went down, full disks, directories that are not to be trusted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.support import LARGE, SIZE, bad_files, chunk, chunks, contents
from zerofs.cache.lmdb import ChunkCache
from zerofs.errors import CacheError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount or to become another user")


def test_a_file_that_was_in_use_when_the_host_went_down_is_not_trusted(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, 100))
        line = (tmp_path / "users.lock").read_text()
    assert (tmp_path / "users.lock").read_text() == "", "the last user leaves no line"
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 2) == chunks(2, 100)
    boot, namespace, size = line.split()
    (tmp_path / "users.lock").write_text(f"{boot} {namespace} {size}\n")
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 2) == chunks(2, 100), "killed, but the kernel went on"
    (tmp_path / "users.lock").write_text(f"another-boot {namespace} {size}\n")
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 2) == []
    assert len(bad_files(tmp_path)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@as_root
def test_a_disk_that_gets_full_is_served_without_it(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkCache(small_disk / "cache", size_limit=64 << 20) as cache:
        stored = sum(cache.put_many([chunk(number, LARGE)]) for number in range(30))
        assert 10 < stored < 16
        assert contents(cache, 30) == chunks(stored, LARGE)
        assert cache.stats().errors == 1, "it pauses instead of trying each time"
        assert len(caplog.records) == 1 and "for now" in caplog.text
    with ChunkCache(small_disk / "cache", size_limit=64 << 20) as cache:
        assert contents(cache, 30) == chunks(stored, LARGE)


@as_root
@pytest.mark.parametrize("pages", [0, 1, 25, *range(33, 42)])
def test_a_disk_that_is_full_from_the_start_is_no_error(
    small_disk: Path, pages: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is anything damaged, where LMDB calls it an input/output error: with a part of a write on the disk."""
    directory = small_disk / "cache"
    directory.mkdir(0o700)
    with (small_disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, os.statvfs(small_disk).f_bavail * 4096 - pages * 4096)
    with ChunkCache(directory, size_limit=64 << 20) as cache:
        cache.put_many(chunks(3, LARGE))
        assert contents(cache, 3) == []
    assert "No space left on device" in caplog.text and "Input/output error" not in caplog.text
    (small_disk / "filler").unlink()
    with ChunkCache(directory, size_limit=64 << 20) as cache:
        cache.put_many(chunks(3, LARGE))
        assert contents(cache, 3) == chunks(3, LARGE)
    assert bad_files(directory) == []


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_a_path_that_is_no_directory_is_unusable(what: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="cannot be used") as caught:
        ChunkCache(tmp_path / "file" if what == "a file" else tmp_path / "file" / "x", size_limit=SIZE)
    assert caught.value.exit_code == 6


def test_a_directory_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(CacheError, match="everybody"):
        ChunkCache(tmp_path, size_limit=SIZE)


@as_root
def test_a_directory_of_another_group_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 4242)
    tmp_path.chmod(0o770)
    with pytest.raises(CacheError, match="another group"):
        ChunkCache(tmp_path, size_limit=SIZE)
    os.chown(tmp_path, 0, os.getegid())
    ChunkCache(tmp_path, size_limit=SIZE).close()


@as_root
def test_root_does_not_trust_what_another_user_can_change(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(CacheError, match="belongs to another user"):
        ChunkCache(tmp_path, size_limit=SIZE)


@as_root
@pytest.mark.parametrize(
    ("owner", "mode", "reason"),
    [(0, 0o755, "belongs to another user"), (65534, 0o500, "no permission"), (65534, 0o300, "no permission")],
)
def test_a_directory_of_somebody_else_is_refused(owner: int, mode: int, reason: str, tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(mode)
    tmp_path.chmod(0o711)
    os.chown(directory, owner, -1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(tmp_path)
            os.seteuid(65534)
            ChunkCache(Path("cache"), size_limit=SIZE)
        except CacheError as error:
            status = 0 if reason in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
