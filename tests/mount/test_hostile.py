"""What a flist, and whoever shares a host with a mount, cannot do: with real users, real mounts and both engines.

docs/security.md says which other tests hold its claims.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.sandbox import MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting, and becoming others, takes root")

ALICE, BOB, GROUP = 12345, 23456, 4242
PROGRAM = Path("/usr/bin/id")

Mounted = Callable[..., MountProcess]


def fill(root: Path) -> None:
    """Alice's things, some of them shared, beside what a hostile image would hold."""
    private = root / "alice"
    write(private / "diary", "secret")
    write(private / "open", "open")
    (private / "open").chmod(0o666)
    write(root / "letters", "for the group")
    (root / "letters").chmod(0o640)
    os.chown(root / "letters", ALICE, GROUP)
    write(root / "drop" / "inside", "inside")
    for path in (private, private / "diary", private / "open", root / "drop", root / "drop/inside"):
        os.chown(path, ALICE, ALICE)
    (private / "diary").chmod(0o600)
    private.chmod(0o700)
    (root / "drop").chmod(0o711)
    write(root / "id", PROGRAM.read_bytes())
    (root / "id").chmod(0o4755)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (root / "null").chmod(0o666)
    os.mknod(root / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 0))


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("tree", fill)


@pytest.fixture(params=["ro", "union"])
def tree(request: pytest.FixtureRequest, image: Image, mounted: Mounted, sandbox: Sandbox) -> Path:
    """The mounted tree, once each way."""
    options = ["--ro"] if request.param == "ro" else ["--backend", sandbox.path / "backend"]
    return mounted(image, *options).target


def allowed(uid: int, *command: str | Path, gid: int | None = None) -> bool:
    """Whether the user with this id can do that."""
    who = [f"--reuid={uid}", f"--regid={uid if gid is None else gid}", "--clear-groups"]
    done = subprocess.run(["setpriv", *who, *command], capture_output=True, timeout=30, check=False)
    return done.returncode == 0


def test_modes_hold_for_every_user(tree: Path) -> None:
    """Directories and files, of others and of a group; a file that all may read is not reached through a closed one."""
    alice = tree / "alice"
    for uid, may in ((ALICE, True), (BOB, False)):
        assert allowed(uid, "cat", alice / "diary") == may
        assert allowed(uid, "cat", alice / "open") == may
        assert allowed(uid, "ls", alice) == may
        assert allowed(uid, "ls", tree / "drop") == may
    assert allowed(BOB, "cat", tree / "drop/inside")
    assert not allowed(BOB, "cat", tree / "letters")
    assert allowed(BOB, "cat", tree / "letters", gid=GROUP)
    assert allowed(0, "cat", alice / "diary")
    # and again, when the kernel has all of it in its caches
    assert not allowed(BOB, "cat", alice / "diary")
    assert not allowed(BOB, "ls", alice)


def test_nobody_writes_who_may_not(tree: Path) -> None:
    for command in (["touch", tree / "new"], ["rm", tree / "letters"], ["chmod", "777", tree / "alice"]):
        assert not allowed(BOB, *command)
    assert not allowed(BOB, "sh", "-c", f"echo x >> {tree / 'alice/open'}")


def test_set_user_id_and_devices(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    """In force in a union as mount-cli.md has it, and by no means in a read-only mount."""
    who = ["setpriv", f"--reuid={BOB}", f"--regid={BOB}", "--clear-groups"]
    ways = {"ro": (["--ro"], False), "union": (["--backend", sandbox.path / "backend"], True)}
    for name, (options, forced) in ways.items():
        target = mounted(image, *options, target=sandbox.directory(name)).target
        found = subprocess.run(
            [*who, target / "id", "-u"], capture_output=True, check=True, timeout=30
        ).stdout
        assert int(found) == (0 if forced else BOB)
        assert allowed(BOB, "cat", target / "null") == forced
        assert not allowed(BOB, "cat", target / "disk")
        assert bool(os.statvfs(target).f_flag & os.ST_NOSUID) != forced
        assert bool(os.statvfs(target).f_flag & os.ST_NODEV) != forced
    # what lies below the union: the mount of the flist itself
    assert os.statvfs(sandbox.path / "backend/ro").f_flag & (os.ST_NOSUID | os.ST_NODEV)
    assert not allowed(BOB, "cat", sandbox.path / "backend/ro/null")


def _server(sandbox: Sandbox) -> str:
    from tests.support.mounts import mounts_below

    (found,) = {mount.source for mount in mounts_below(sandbox.path) if mount.type == "fuse.g8ufs"}
    return found


# -- what is private -----------------------------------------------------------------------


def test_caches_and_sockets_are_their_owners(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    cache = sandbox.path / "new" / "cache"
    mount = mounted(image, "--ro", "--cache", cache)
    (mount.target / "letters").read_bytes()
    sandbox.run(
        "zerofs", "stats", mount.target
    )  # which waits for the socket: it comes a moment after the mount
    for path in (cache, cache / "flists"):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in cache.rglob("*"):
        assert path.stat().st_uid == 0 and not path.is_symlink()
        assert path.is_dir() or path.stat().st_mode & 0o077 == 0, path
    socket = Path(f"/run/zerofs/{_server(sandbox)}.sock")
    assert stat.S_ISSOCK(socket.stat().st_mode) and socket.stat().st_mode & 0o077 == 0
    assert socket.parent.stat().st_mode & 0o077 == 0
    assert not allowed(BOB, "ls", cache)
    assert not allowed(BOB, "ls", socket.parent)


@pytest.mark.parametrize("place", ["cache", "cache/flists"])
@pytest.mark.parametrize("attack", ["another-owner", "everybody-writes", "link"])
def test_a_cache_that_others_can_poison_is_refused(
    image: Image, sandbox: Sandbox, place: str, attack: str
) -> None:
    """By a member of a group that shares it, by one who was there first, by a link to a place of theirs."""
    directory = sandbox.directory("cache")
    directory.chmod(0o700)
    path = sandbox.path / place
    if attack == "link":
        elsewhere = sandbox.directory("elsewhere")
        os.chown(elsewhere, BOB, BOB)
        if place == "cache":
            directory.rmdir()
        path.symlink_to(elsewhere)
    else:
        path.mkdir(exist_ok=True)
        path.chmod(0o777 if attack == "everybody-writes" else 0o700)
        os.chown(path, BOB if attack == "another-owner" else 0, 0)
    arguments = ["--ro", "--meta", image.flist, "--storage-url", f"dir://{image.store}"]
    done = sandbox.run(
        "g8ufs", *arguments, "--cache", sandbox.path / "cache", sandbox.directory("mnt"), status=6
    )
    assert b"Traceback" not in done.stderr and b"--cache" in done.stderr
    listed = sandbox.run("zerofs", "ls", "--cache", sandbox.path / "cache", image.flist, status=6)
    assert b"--cache" in listed.stderr


def test_a_planted_link_in_a_cache_is_not_followed(image: Image, sandbox: Sandbox) -> None:
    """Names in the cache that lead elsewhere, as an older state of the directory may hold them."""
    victim = write(sandbox.path / "victim", "untouched")
    cache = sandbox.directory("cache")
    cache.chmod(0o700)
    (cache / "users.lock").symlink_to(victim)
    arguments = ["--ro", "--meta", image.flist, "--storage-url", f"dir://{image.store}", "--cache", cache]
    done = sandbox.run("g8ufs", *arguments, sandbox.directory("mnt"), status=6)
    assert b"Traceback" not in done.stderr
    assert victim.read_text() == "untouched"
