"""Servers that cannot take over, or die again and again: what becomes of the mount, and what its user is told."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image
from tests.support.mounts import mounts_below
from tests.support.sandbox import Sandbox
from tests.support.waiting import eventually
from tests.takeover.conftest import Readers, Supervised

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

Mount = Callable[..., Supervised]
DEAD = (r"taking down the mount of a dead process", r"taking away the backend of a dead process")

CANNOT = {
    "ends": ("import os; os._exit(3)", "ended with status"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    "knows another index": ("import zerofs.flist.index as index; index.VERSION = 99", "layout 1 is not known"),
    "knows another state": ("import zerofs.mount.session as s; s.VERSION = 99", "state of the mount is of version 2"),
    "fails once it is its turn": (
        "from zerofs.mount.fast_engine import FastEngine as F\n"
        "def fail(self): raise RuntimeError('cannot begin')\n"
        "F.start = fail\n",
        "cannot begin",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", CANNOT)
def test_an_upgrade_that_fails_leaves_the_old_one(
    why: str,
    image: Image,
    supervised: Mount,
    next_server: Callable[[str], None],
    readers: Callable[[Supervised], Readers],
) -> None:
    mount = supervised(image)
    server = mount.server
    reading = readers(mount)
    code, reason = CANNOT[why]
    next_server(code)
    done = mount.upgrade(status=5)
    assert done.stdout == b""
    assert reason in done.stderr.decode()
    assert mount.server == server
    reading.end()
    next_server("")
    mount.upgrade()
    assert mount.server != server
    mount.check()


@pytest.mark.parametrize("union", [False, True])
def test_a_crash_loop_ends_the_mount(
    union: bool, image: Image, supervised: Mount, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    backend = ("--backend", sandbox.directory("backend")) if union else ()
    mount = supervised(image, *backend, allow=(*DEAD, r"which was to serve the mount, ended with status 3"))
    server = mount.server
    next_server("import os; os._exit(3)")
    os.kill(server, signal.SIGKILL)
    assert mount.process.wait(60) == 5
    assert mounts_below(sandbox.path) == []
    assert "is given up: its server died 6 times in a row" in mount.process.log()


WITHOUT = """
from zerofs.mount.fast_engine import FastEngine
FastEngine.resends = property(lambda self: False)
"""


def test_a_kernel_that_sends_nothing_again(
    image: Image, supervised: Mount, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    """There an upgrade waits for what is under way, and a death cannot be survived."""
    next_server(WITHOUT)
    mount = supervised(image, allow=DEAD)
    mount.upgrade()
    mount.check()
    os.kill(mount.server, signal.SIGKILL)
    assert mount.process.wait(60) == 5
    assert mounts_below(sandbox.path) == []
    assert "cannot be asked to send again" in mount.process.log()


def test_what_cannot_be_mounted_is_said_as_ever(sandbox: Sandbox) -> None:
    target = sandbox.directory("mnt")
    done = sandbox.run("g8ufs", "--supervised", "--ro", "--meta", "/nowhere", target, status=3)
    assert done.stderr.decode().startswith("g8ufs: there is no flist at /nowhere")
    assert (done.stdout, mounts_below(sandbox.path)) == (b"", [])


def test_killed_before_there_is_a_mount(
    image: Image, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    next_server("import os; os.kill(os.getpid(), 9)")
    target = sandbox.directory("mnt")
    done = sandbox.run("g8ufs", "--supervised", "--ro", "--meta", image.flist, target, status=1)
    assert "the serving process was killed by SIGKILL before the mount could be used" in done.stderr.decode()
    assert (done.stdout, mounts_below(sandbox.path)) == (b"", [])


@pytest.mark.parametrize("options", [("--engine", "llfuse", "--meta", "x"), ()])
def test_what_does_not_go_together(options: tuple[str, ...], sandbox: Sandbox) -> None:
    done = sandbox.run("g8ufs", "--supervised", *options, sandbox.directory("mnt"), status=2)
    assert "--supervised" in done.stderr.decode()


def test_a_mount_that_nobody_supervises(image: Image, sandbox: Sandbox) -> None:
    mount = sandbox.mount("--ro", "--meta", image.flist, "--cache", sandbox.path / "cache")
    done = sandbox.run("zerofs", "upgrade", mount.target, status=5)
    assert "is not supervised" in done.stderr.decode()
    assert Path(mount.target / "dir-1").is_dir()


def test_asked_twice_at_once(image: Image, supervised: Mount, next_server: Callable[[str], None]) -> None:
    """One upgrade at a time."""
    mount = supervised(image)
    next_server("import time; time.sleep(2)")
    import threading

    first = threading.Thread(target=mount.upgrade)
    first.start()
    children = Path(f"/proc/{mount.process.pid}/task/{mount.process.pid}/children")
    eventually(lambda: len(children.read_text().split()) == 2, "the successor")
    done = mount.upgrade(status=5)
    assert "under way already" in done.stderr.decode()
    first.join()
    assert mount.stats()["mount"]["takeovers"] == 1


def test_asked_while_a_successor_of_a_dead_server_starts(
    image: Image, supervised: Mount, next_server: Callable[[str], None]
) -> None:
    """That one may have been started from the program of before: it is replaced, too."""
    mount = supervised(image)
    next_server("import time; time.sleep(2)")
    os.kill(mount.server, signal.SIGKILL)
    eventually(lambda: "which served the mount" in mount.process.log(), "the death")
    said = json.loads(mount.upgrade().stdout)
    assert said["takeovers"] == 2 and said["server"] == mount.server
    mount.check()
