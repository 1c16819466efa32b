"""What a killed process left mounted is recognised and taken down by the next mount."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.conftest import PLAIN, Server
from tests.support.sandbox import Sandbox
from zerofs.errors import MountError
from zerofs.mount import mountinfo
from zerofs.mount.backend import Backend, open_backend
from zerofs.mount.overlay import mount_overlay
from zerofs.mount.unmount import clear_target

Serve = Callable[[Path], Server]


def _die_with_a_mount(path: Path | None, base: Path, target: Path, serve: Serve) -> None:
    """Mount a union in a process that is killed, and with it the server of the lower layer."""
    told, tell = os.pipe()
    go, goes = os.pipe()
    child = os.fork()
    if child == 0:
        backend = open_backend(path, base=base)
        backend.make_layers()
        os.write(tell, os.fsencode(backend.ro))
        os.read(go, 1)
        mount_overlay(backend, target)
        os.kill(os.getpid(), 9)
    server = serve(Path(os.fsdecode(os.read(told, 4096))))
    os.write(goes, b"!")
    os.waitpid(child, 0)
    assert (target / "plain").read_bytes() == PLAIN
    server.kill()
    for fd in (told, tell, go, goes):
        os.close(fd)


def _works(backend: Backend, target: Path, serve: Serve) -> None:
    backend.make_layers()
    server = serve(backend.ro)
    union = mount_overlay(backend, target)
    assert (target / "dir/inner").read_text() == "inner"
    union.close()
    server.close()
    assert mountinfo.at(target) == []


def test_the_next_mount_of_the_backend_cleans(sandbox: Sandbox, serve: Serve) -> None:
    place, target = sandbox.path / "backend", sandbox.directory("mnt")
    _die_with_a_mount(place, sandbox.path, target, serve)
    with pytest.raises(OSError) as caught:
        os.listdir(place / "ro")
    assert caught.value.errno == errno.ENOTCONN
    with open_backend(place) as backend:
        assert mountinfo.at(target) == mountinfo.at(backend.ro) == []
        _works(backend, target, serve)


def test_a_union_over_a_dead_server_is_dead(sandbox: Sandbox, serve: Serve) -> None:
    target = sandbox.directory("mnt")
    _die_with_a_mount(sandbox.path / "backend", sandbox.path, target, serve)
    union = mountinfo.top(target)
    assert union is not None
    assert mountinfo.is_dead(union)
    with open_backend(sandbox.path / "other") as other:  # no backend leads to it: the target does
        clear_target(target)
        _works(other, target, serve)
    open_backend(sandbox.path / "backend").close()


def test_a_union_over_a_living_server_is_busy(sandbox: Sandbox, serve: Serve) -> None:
    target = sandbox.directory("mnt")
    with open_backend(sandbox.path / "backend") as backend:
        backend.make_layers()
        server = serve(backend.ro)
        union = mount_overlay(backend, target)
        with pytest.raises(MountError, match=f"busy.* process {server.process.pid}"):
            clear_target(target)
        with pytest.raises(MountError, match=f"in use by process {server.process.pid}"):
            open_backend(sandbox.path / "backend")
        union.close()


def test_a_private_backend_of_a_killed_process_goes_with_its_mounts(sandbox: Sandbox, serve: Serve) -> None:
    base, target = sandbox.path / "private", sandbox.directory("mnt")
    _die_with_a_mount(None, base, target, serve)
    with open_backend(None, base=base) as backend:
        assert mountinfo.at(target) == []
        assert list(base.glob("mount-*")) == [backend.path]
        _works(backend, target, serve)
    assert os.listdir(base) == ["ca"]
