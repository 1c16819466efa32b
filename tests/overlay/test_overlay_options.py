"""How the union is mounted where the kernel, the paths or the backend's file system stand in the way."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.overlay.conftest import PLAIN, bound
from tests.support.refreshing import refresh
from tests.support.sandbox import Sandbox
from zerofs.errors import BackendError, MountError
from zerofs.mount import mountinfo, overlay
from zerofs.mount._linux import MS_RDONLY, MS_REMOUNT, mount
from zerofs.mount.backend import open_backend
from zerofs.mount.unmount import unmount


def test_paths_with_everything_that_options_give_a_meaning(sandbox: Sandbox, source: Path) -> None:
    place = sandbox.directory('a b,c:d\\e=é"#\n\r\\')
    target = sandbox.directory("at,a:b \\c")
    with open_backend(place) as backend:
        backend.make_layers()
        with bound(source, backend.ro):
            union = overlay.mount_overlay(backend, target)
            (target / "plain").unlink()
            seen = mountinfo.top(target)
            assert seen is not None
            assert seen.lower_dirs() == [os.fspath(backend.ro)]
            assert seen.upper_dir() == os.fspath(backend.rw)
            union.close()
        assert (backend.rw / "plain").is_char_device()


def test_paths_that_are_too_long(sandbox: Sandbox, source: Path) -> None:
    place = sandbox.path.joinpath(*["d" * 250] * 6)
    with open_backend(place) as backend:
        backend.make_layers()
        with pytest.raises(MountError, match="too long") as caught:
            overlay.mount_overlay(backend, sandbox.directory("mnt"))
        assert "--backend" in caught.value.hint


def test_an_option_that_the_kernel_lacks_is_given_up_and_named(
    sandbox: Sandbox, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(overlay, "_OPTIONS", {**overlay._OPTIONS, "of_the_future=on": "something is slow"})
    target = sandbox.directory("mnt")
    with open_backend(sandbox.path / "backend") as backend:
        backend.make_layers()
        with bound(source, backend.ro), caplog.at_level(logging.WARNING):
            overlay.mount_overlay(backend, target).close()
            assert [record.message for record in caplog.records] == [
                "overlayfs does not take of_the_future=on here: something is slow"
            ]


def test_all_options_are_in_force_here(
    sandbox: Sandbox, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_backend(None, base=sandbox.path / "private") as backend:
        backend.make_layers()
        with bound(source, backend.ro), caplog.at_level(logging.WARNING):
            union = overlay.mount_overlay(backend, target := sandbox.directory("mnt"))
            seen = mountinfo.top(target)
            assert seen is not None
            options = seen.super_options.split(b",")
            assert {b"xino=on", b"redirect_dir=on", b"metacopy=on"} <= set(options)
            assert b"index=on" not in options
            assert not caplog.records
            union.close()


def test_a_lower_layer_without_a_flist(sandbox: Sandbox) -> None:
    target = sandbox.directory("mnt")
    restored = sandbox.directory("backend/ro")
    (restored / "file").write_text("restored")
    with open_backend(sandbox.path / "backend") as backend:
        backend.make_layers()
        union = overlay.mount_overlay(backend, target)
        assert (target / "file").read_text() == "restored"
        (target / "file").write_text("changed")
        union.close()
    assert (restored / "file").read_text() == "restored"


def test_a_backend_on_an_overlay_is_refused_by_name(sandbox: Sandbox, source: Path) -> None:
    below = sandbox.directory("below")
    with open_backend(sandbox.path / "first") as backend:
        backend.make_layers()
        with bound(source, backend.ro):
            union = overlay.mount_overlay(backend, below)
            with open_backend(below / "second") as upper:
                upper.make_layers()
                with pytest.raises(BackendError, match="lies on overlay"):
                    overlay.mount_overlay(upper, sandbox.directory("mnt"))
            union.close()


def test_a_full_disk(sandbox: Sandbox, source: Path) -> None:
    disk = sandbox.directory("disk")
    mount("none", disk, "tmpfs", 0, "size=64k")
    try:
        with open_backend(disk / "backend") as backend:
            backend.make_layers()
            (disk / "filler").write_bytes(b"f" * 40_000)
            with pytest.raises(OSError), (disk / "rest").open("wb", buffering=0) as rest:
                while rest.write(b"r" * 4096):
                    pass
            mount("none", disk, "tmpfs", MS_REMOUNT, "nr_inodes=8")
            for number in range(8):
                try:
                    (disk / f"{number}").touch()
                except OSError:
                    break
            with bound(source, backend.ro), pytest.raises(BackendError, match="cannot be written") as caught:
                overlay.mount_overlay(backend, sandbox.directory("mnt"))
            assert "full" in caught.value.hint
            assert mountinfo.top(sandbox.path / "mnt") is None
    finally:
        unmount(disk)


def test_a_missing_mount_point(sandbox: Sandbox, source: Path) -> None:
    with open_backend(sandbox.path / "backend") as backend:
        backend.make_layers()
        with pytest.raises(MountError, match="not a directory") as caught:
            overlay.mount_overlay(backend, sandbox.path / "nowhere")
        assert caught.value.exit_code == 5


def test_read_only_on_demand(sandbox: Sandbox, source: Path) -> None:
    target = sandbox.directory("mnt")
    with open_backend(sandbox.path / "backend") as backend:
        backend.make_layers()
        with bound(source, backend.ro):
            union = overlay.mount_overlay(backend, target, flags=MS_RDONLY)
            refresh(union)
            assert (target / "plain").read_bytes() == PLAIN
            with pytest.raises(OSError, match="Read-only"):
                (target / "new").touch()
            union.close()


def test_a_union_that_is_gone_or_covered(
    sandbox: Sandbox, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = sandbox.directory("mnt")
    with open_backend(sandbox.path / "backend") as backend:
        backend.make_layers()
        with bound(source, backend.ro):
            union = overlay.mount_overlay(backend, target)
            mount("none", target, "tmpfs")
            with pytest.raises(MountError, match="not to be seen"):
                refresh(union)
            union.close()
            assert "mounted over the union" in caplog.text
            unmount(target)
            union.close()
            union.close()
            with pytest.raises(MountError, match="not to be seen"):
                refresh(union)
            assert mountinfo.top(target) is None
