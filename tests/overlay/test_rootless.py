"""Joining the layers without root: each test is a process that gives up its rights in a namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.overlay.conftest import NOBODY
from tests.support.sandbox import Sandbox

# /dev/fuse is opened to everybody in the namespace alone: the machine stays as it is.  All modules are loaded
# first, since the interpreter may lie where only root can read.
PRELUDE = f"""
import os, shutil, signal, stat, subprocess, sys, tempfile
from pathlib import Path
from zerofs.errors import BackendError, MountError
from zerofs.mount import _linux, backend, fuse_overlayfs, mountinfo, overlay
from zerofs.mount.notify import Notifier

here = Path(sys.argv[1])

def give_up_rights():
    os.setgroups([])
    os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
    os.environ["HOME"] = "/nonexistent"

def enter_user_namespace():
    (told, tell), (go, goes) = os.pipe(), os.pipe()
    child = os.fork()
    if child:  # root maps the ids: a process that changed its own may not
        os.read(told, 1)
        Path(f"/proc/{{child}}/uid_map").write_text("0 {NOBODY} 1")
        Path(f"/proc/{{child}}/gid_map").write_text("0 {NOBODY} 1")
        os.write(goes, b"!")
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    give_up_rights()
    _linux.unshare(_linux.CLONE_NEWUSER | _linux.CLONE_NEWNS)
    os.write(tell, b"!")
    os.read(go, 1)

_linux.unshare(_linux.CLONE_NEWNS)
_linux.mount("none", "/", None, _linux.MS_REC | _linux.MS_PRIVATE)
device = here / "device"
device.mkdir()
_linux.mount("none", device, "tmpfs")
os.mknod(device / "fuse", stat.S_IFCHR, os.makedev(10, 229))
(device / "fuse").chmod(0o666)
_linux.mount(device / "fuse", "/dev/fuse", None, _linux.MS_BIND)
if sys.argv[2] == "namespace":
    enter_user_namespace()
else:
    give_up_rights()

def fill(ro):
    (ro / "dir").mkdir()
    (ro / "dir/inner").write_text("inner")
    (ro / "plain").write_text("plain")

target = here / "mnt"

def exercise(target):
    (target / "plain").write_text("changed")
    os.chmod(target / "dir/inner", 0o600)
    (target / "new").write_text("new")
    os.unlink(target / "plain")
    assert sorted(os.listdir(target)) == ["dir", "new"], os.listdir(target)
    assert (target / "dir/inner").read_text() == "inner"
"""


def _run(sandbox: Sandbox, script: str, mode: str = "user") -> subprocess.CompletedProcess[str]:
    for name in ("work", "mnt"):
        os.chown(sandbox.directory(name), NOBODY, NOBODY)
    sandbox.path.chmod(0o755)
    os.chown(sandbox.path, NOBODY, NOBODY)
    program = PRELUDE + script
    return subprocess.run(
        [sys.executable, "-c", program, sandbox.path, mode],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def _fuse_overlayfs() -> None:
    if shutil.which("fuse-overlayfs") is None:
        pytest.skip("no package fuse-overlayfs")


@pytest.mark.usefixtures("_fuse_overlayfs")
@pytest.mark.parametrize("place", ["here / 'work/a b,c\\\\'", "None"])
def test_fuse_overlayfs_joins_the_layers(sandbox: Sandbox, place: str) -> None:
    done = _run(
        sandbox,
        f"""
assert overlay.strategy() is overlay.Strategy.FUSE
with backend.open_backend({place}, base=here / "work/private") as taken:
    taken.make_layers()
    fill(taken.ro)
    union = overlay.mount_overlay(taken, target)
    exercise(target)
    assert (taken.ro / "plain").exists()
    process = union.process_id
    union.close()
    union.close()
    assert mountinfo.top(target) is None
    assert not Path(f"/proc/{{process}}").exists()
assert taken.private is not taken.path.exists()
""",
    )
    assert done.returncode == 0, done.stderr
    warnings = ["not permitted to mount a tmpfs"] if place == "None" else []
    assert [line for line in done.stderr.splitlines() if not any(word in line for word in warnings)] == []


@pytest.mark.usefixtures("_fuse_overlayfs")
def test_a_program_that_a_killed_process_left_is_ended(sandbox: Sandbox) -> None:
    done = _run(
        sandbox,
        """
child = os.fork()
if child == 0:
    taken = backend.open_backend(here / "work/backend")
    taken.make_layers()
    fill(taken.ro)
    union = overlay.mount_overlay(taken, target)
    (here / "work/program").write_text(str(union.process_id))
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
program = Path("/proc") / (here / "work/program").read_text()
assert program.exists() and mountinfo.top(target)
with backend.open_backend(here / "work/backend") as taken:
    assert mountinfo.top(target) is None
    assert not program.exists() or "Z" in (program / "stat").read_text().split()[2]
    taken.reset(target=target)
    assert os.listdir(taken.path) == []
""",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_fuse_overlayfs")
def test_what_fuse_overlayfs_says_reaches_the_user(sandbox: Sandbox) -> None:
    done = _run(
        sandbox,
        """
with backend.open_backend(here / "work/backend") as taken:
    taken.make_layers()
    taken.ro.rmdir()
    try:
        fuse_overlayfs.FuseOverlay(taken.ro, taken.rw, taken.wd, target)
    except MountError as error:
        sys.exit(f"told: {error}")
""",
    )
    assert "told: fuse-overlayfs cannot mount" in done.stderr
    assert "No such file" in done.stderr


@pytest.mark.usefixtures("_fuse_overlayfs")
def test_a_colon_that_fuse_overlayfs_cannot_take(sandbox: Sandbox) -> None:
    done = _run(
        sandbox,
        """
with backend.open_backend(here / "work/a:b") as taken:
    taken.make_layers()
    try:
        overlay.mount_overlay(taken, target)
    except MountError as error:
        sys.exit(f"told: {error}")
""",
    )
    assert "told: fuse-overlayfs takes no colon" in done.stderr


def test_nothing_to_join_with(sandbox: Sandbox) -> None:
    done = _run(
        sandbox,
        """
os.environ["PATH"] = "/nonexistent"
try:
    overlay.strategy()
except MountError as error:
    sys.exit(f"told {error.exit_code}: {error} ({error.hint})")
""",
    )
    assert "told 5: not permitted to mount an overlay" in done.stderr
    assert "install fuse-overlayfs" in done.stderr


def test_the_kernel_joins_in_a_user_namespace(sandbox: Sandbox) -> None:
    done = _run(
        sandbox,
        """
assert overlay.strategy() is overlay.Strategy.KERNEL_IN_USER_NAMESPACE
with backend.open_backend(here / "work/backend") as taken:
    taken.make_layers()
    fill(taken.ro)
    union = overlay.mount_overlay(taken, target)
    assert "userxattr" in mountinfo.top(target).super_options.decode()
    exercise(target)
    with Notifier(0, "", target, succeeded=True).at_work() as kernel:
        union.refresh(kernel)
    union.close()
    assert mountinfo.top(target) is None
with backend.open_backend(None, base=here / "work/private", rw_size=1 << 20) as taken:
    taken.make_layers()
    fill(taken.ro)
    union = overlay.mount_overlay(taken, target)
    exercise(target)
    assert mountinfo.holding(taken.rw).fstype == "tmpfs"
    union.close()
""",
        mode="namespace",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_work_directory_without_permissions_is_emptied_by_its_owner(sandbox: Sandbox) -> None:
    done = _run(
        sandbox,
        """
with backend.open_backend(here / "work/backend") as taken:
    taken.make_layers()
    (taken.wd / "work/inside").mkdir(parents=True)
    (taken.wd / "work").chmod(0)
    taken.reset(target=target)
    assert os.listdir(taken.path) == []
""",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_backend_that_may_not_be_written(sandbox: Sandbox) -> None:
    os.chown(sandbox.directory("roots"), 0, 0)
    done = _run(
        sandbox,
        """
for place, word in ((here / "roots", "belongs to user root"), (here / "roots/new", "Permission denied")):
    try:
        backend.open_backend(place)
    except BackendError as error:
        assert word in str(error), error
    else:
        sys.exit("taken")
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
