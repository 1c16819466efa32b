"""Taking a backend: whose it is, who holds it, and what a private one leaves behind."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.overlay.conftest import NOBODY
from tests.support.sandbox import Sandbox
from zerofs.errors import BackendError, MountError
from zerofs.mount import mountinfo
from zerofs.mount._linux import MS_RDONLY, mount
from zerofs.mount.backend import open_backend, sweep
from zerofs.mount.unmount import unmount


def test_it_is_made_with_its_layers(sandbox: Sandbox) -> None:
    with open_backend(sandbox.path / "new/backend") as backend:
        backend.make_layers()
        assert backend.path == sandbox.path / "new/backend"
        assert [path.name for path in (backend.ro, backend.rw, backend.wd, backend.cache)] == [
            "ro",
            "rw",
            "wd",
            "ca",
        ]
        assert {stat.S_IMODE(path.stat().st_mode) for path in (backend.ro, backend.rw)} == {0o755}
    assert sorted(os.listdir(sandbox.path / "new/backend")) == ["ro", "rw", "wd"]


def test_a_link_to_it_leads_to_one_and_the_same(sandbox: Sandbox) -> None:
    (sandbox.path / "link").symlink_to(sandbox.directory("backend"))
    with open_backend(sandbox.path / "link") as backend:
        assert backend.path == sandbox.path / "backend"
        with pytest.raises(MountError):
            open_backend(sandbox.path / "backend")


def test_two_mounts_of_one_backend_exclude_each_other(sandbox: Sandbox) -> None:
    with open_backend(sandbox.path / "backend"):
        with pytest.raises(MountError, match="is busy") as caught:
            open_backend(sandbox.path / "backend")
        assert caught.value.exit_code == 5
        open_backend(sandbox.path / "other").close()
    open_backend(sandbox.path / "backend").close()


def test_the_lock_outlives_the_process_that_forked(sandbox: Sandbox) -> None:
    backend = open_backend(sandbox.path / "backend")
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    os.close(wait)
    backend.close()
    with pytest.raises(MountError, match="is busy"):
        open_backend(sandbox.path / "backend")
    os.close(go)
    os.waitpid(child, 0)
    open_backend(sandbox.path / "backend").close()


def test_that_of_another_user_is_refused(sandbox: Sandbox) -> None:
    os.chown(sandbox.directory("backend"), NOBODY, NOBODY)
    with pytest.raises(BackendError, match="belongs to user nobody") as caught:
        open_backend(sandbox.path / "backend")
    assert caught.value.exit_code == 6


def test_a_file_in_its_place(sandbox: Sandbox) -> None:
    (sandbox.path / "backend").touch()
    with pytest.raises(BackendError, match="cannot use"):
        open_backend(sandbox.path / "backend")


@pytest.mark.parametrize("layer", ["ro", "rw", "wd"])
def test_a_layer_that_leads_elsewhere_is_refused(sandbox: Sandbox, layer: str) -> None:
    (sandbox.directory("backend") / layer).symlink_to(sandbox.directory("elsewhere"))
    with (
        open_backend(sandbox.path / "backend") as backend,
        pytest.raises(BackendError, match="not a directory"),
    ):
        backend.make_layers()


@pytest.mark.parametrize(
    ("flags", "data", "reason"),
    [(0, "nr_inodes=1", "No space left"), (MS_RDONLY, "size=1m", "Read-only file system")],
)
def test_a_disk_that_takes_nothing(sandbox: Sandbox, flags: int, data: str, reason: str) -> None:
    disk = sandbox.directory("disk")
    mount("none", disk, "tmpfs", flags, data)
    try:
        with pytest.raises(BackendError, match=reason):
            open_backend(disk / "backend")
    finally:
        unmount(disk)


# -- private ones --------------------------------------------------------------------------


def test_a_private_one_is_in_memory_and_gone_at_the_end(sandbox: Sandbox) -> None:
    base = sandbox.path / "private"
    with open_backend(None, rw_size=1 << 20, base=base) as backend:
        backend.make_layers()
        assert backend.private
        assert stat.S_IMODE(backend.path.stat().st_mode) == 0o700
        assert mountinfo.holding(backend.rw).fstype == "tmpfs"
        assert mountinfo.holding(backend.rw) == mountinfo.holding(backend.wd)
        space = os.statvfs(backend.rw)
        assert space.f_blocks * space.f_frsize == 1 << 20
        (backend.rw / "file").touch()
    assert os.listdir(base) == ["ca"]
    assert mountinfo.top(backend.path / "memory") is None


def test_without_a_union_no_memory_is_set_aside(sandbox: Sandbox) -> None:
    base = sandbox.path / "private"
    with open_backend(None, union=False, base=base) as backend:
        assert backend.private
        assert mountinfo.holding(backend.path / "anything") == mountinfo.holding(base)
    assert os.listdir(base) == ["ca"]


def test_memory_is_bounded_by_half_unless_told(sandbox: Sandbox) -> None:
    with open_backend(None, base=sandbox.path / "private") as backend:
        backend.make_layers()
        space = os.statvfs(backend.rw)
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
        assert 0.4 < space.f_blocks * space.f_frsize / whole < 0.55


def test_private_ones_share_a_cache_but_nothing_else(sandbox: Sandbox) -> None:
    base = sandbox.path / "private"
    with open_backend(None, base=base) as one, open_backend(None, base=base) as two:
        assert one.cache == two.cache == base / "ca"
        assert one.path != two.path
    assert stat.S_IMODE(base.stat().st_mode) == 0o1777


def test_a_cache_that_another_user_planted_is_not_used(sandbox: Sandbox) -> None:
    base = sandbox.directory("private")
    base.chmod(0o1777)
    os.chown(sandbox.directory("private/ca"), NOBODY, NOBODY)
    with open_backend(None, base=base) as backend:
        assert backend.cache == backend.path / "ca"


def test_a_base_of_another_user_is_refused(sandbox: Sandbox) -> None:
    os.chown(sandbox.directory("private"), NOBODY, NOBODY)
    with pytest.raises(BackendError, match="belongs to user nobody"):
        open_backend(None, base=sandbox.path / "private")


def test_a_base_in_which_anybody_can_rename_is_refused(sandbox: Sandbox) -> None:
    sandbox.directory("private").chmod(0o777)
    with pytest.raises(BackendError, match="anybody can move"):
        open_backend(None, base=sandbox.path / "private")


def test_a_base_that_is_no_directory(sandbox: Sandbox) -> None:
    (sandbox.path / "private").touch()
    with pytest.raises(BackendError, match="not a directory"):
        open_backend(None, base=sandbox.path / "private")


def test_private_backends_of_killed_processes_are_taken_away(sandbox: Sandbox, tmp_path: Path) -> None:
    base = sandbox.path / "private"
    child = os.fork()
    if child == 0:
        open_backend(None, base=base).make_layers()
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    [left] = base.glob("mount-*")
    assert mountinfo.top(left / "memory") is not None
    with open_backend(None, base=base) as living, open_backend(None, base=base):
        assert not left.exists()
        assert living.path.exists()
    assert os.listdir(base) == ["ca"]


def test_what_is_just_being_made_or_taken_away_is_no_dead_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mounts that start and end at once sweep each other's places; nobody died."""
    base = tmp_path / "base"

    def start_and_end() -> None:
        for _ in range(200):
            with open_backend(None, union=False, base=base) as backend:
                assert os.stat(backend.lock).st_ino == backend.path.stat().st_ino

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(start_and_end) for _ in range(4)]:
            done.result()
    assert caplog.messages == []


def test_an_empty_place_is_taken_away_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mount-empty").mkdir()
    (tmp_path / "mount-full").mkdir()
    (tmp_path / "mount-full/ro").mkdir()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == [f"{tmp_path / 'mount-full'}: taking away the backend of a dead process"]
