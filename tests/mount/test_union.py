"""What hosts do to a container's tree, through the union: none of it fetches a byte.

The store holds no chunk at all, so whatever asked for one would fail and be logged.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.sandbox import MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

SIZES = {f"tree/d{n}/f{m}": 3000 * (n + 1) + m for n in range(4) for m in range(4)}


def fill(root: Path) -> None:
    for name, size in SIZES.items():
        write(root / name, os.urandom(size))
    shutil.copy("/usr/bin/id", root / "id")
    (root / "id").chmod(0o4755)


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", fill)


@pytest.fixture(params=["memory", "disk"])
def empty(
    request: pytest.FixtureRequest, image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> Path:
    """The root of a union over a flist whose store is empty; a failed read would fail the test."""
    store = ["--storage-url", f"dir://{sandbox.directory('empty')}"]
    if request.param == "disk":
        return mounted(image, *store, "--backend", sandbox.path / "backend").target
    return sandbox.mount("--meta", image.flist, *store, "--cache", sandbox.path / "cache").target


def test_du_counts_the_whole_tree_as_one_device(empty: Path) -> None:
    counted = subprocess.run(["du", "-x", "-s", "--block-size=1", "--apparent-size", empty / "tree"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    assert int(counted.stdout.split()[0]) >= sum(SIZES.values())
    found = subprocess.run(["find", empty, "-xdev", "-type", "f"], capture_output=True, text=True, check=True)
    assert len(found.stdout.splitlines()) == len(SIZES) + 1


def test_chown_and_chmod_fetch_nothing(empty: Path) -> None:
    subprocess.run(["chown", "-R", "1234:5678", empty / "tree"], check=True)
    subprocess.run(["chmod", "-R", "go-rwx", empty / "tree"], check=True)
    for name, size in SIZES.items():
        status = (empty / name).stat()
        assert (status.st_uid, status.st_gid, status.st_size) == (1234, 5678, size)
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0


def test_renames_fetch_nothing(empty: Path) -> None:
    (empty / "tree").rename(empty / "moved")
    (empty / "moved/d1").rename(empty / "d1")
    (empty / "moved/d2/f1").rename(empty / "f1")
    assert not (empty / "tree").exists()
    assert sorted(os.listdir(empty / "moved")) == ["d0", "d2", "d3"]
    assert (empty / "d1/f3").stat().st_size == SIZES["tree/d1/f3"]
    assert (empty / "f1").stat().st_size == SIZES["tree/d2/f1"]
    shutil.rmtree(empty / "moved")
    assert sorted(os.listdir(empty)) == ["d1", "f1", "id"]


def test_what_was_moved_and_changed_reads_right(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    mount = mounted(image, "--backend", sandbox.path / "backend")
    subprocess.run(["chown", "-R", "1234:5678", mount.target / "tree"], check=True)
    (mount.target / "tree").rename(mount.target / "moved")
    for name in SIZES:
        path = mount.target / name.replace("tree", "moved", 1)
        assert path.read_bytes() == (image.source / name).read_bytes()


def test_set_user_id_programs_take_effect(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    user = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"]

    def says(program: Path) -> str:
        return subprocess.run([*user, program], capture_output=True, text=True, check=True).stdout

    union = mounted(image, "--backend", sandbox.path / "backend")
    assert "euid=0" in says(union.target / "id")
    union.stop()
    assert "euid" not in says(mounted(image, "--ro").target / "id")


def test_set_user_id_programs_of_a_mount_with_suid(
    image: Image, mounted: Callable[..., MountProcess]
) -> None:
    mount = mounted(image, "--ro", "-o", "suid")
    user = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"]
    done = subprocess.run([*user, mount.target / "id"], capture_output=True, text=True, check=True)
    assert "euid=0" in done.stdout
