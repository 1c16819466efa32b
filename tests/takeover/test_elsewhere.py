"""Takeovers of mounts of other kinds: without root, of several flists, and with completion under way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.mount.test_rootless import USER, WRITING, pack_for, play
from tests.support.sandbox import Sandbox
from tests.support.waiting import eventually
from tests.takeover.conftest import Supervised

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

Mount = Callable[..., Supervised]

# The server is killed, and then its successor replaced; what is read afterwards was not read before.
TAKEOVERS = r"""
set -e
supervisor=$(grep " $BOX/home/" /proc/self/mountinfo | sed -n 's/.* fuse.g8ufs \([0-9]*\) .*/\1/p')
kill -9 $(cat /proc/$supervisor/task/$supervisor/children)
for n in $(seq 600); do
    if "$ZEROFS" stats --json mnt 2> /dev/null | grep -q '"takeovers": 1'; then break; fi
    sleep 0.05
done
"$ZEROFS" upgrade mnt
"$ZEROFS" stats --json mnt | grep -q '"takeovers": 2'
"""
OPTIONS = "--supervised --prefetch off --backend backend"


def test_a_union_without_root(sandbox: Sandbox, pack: Callable[..., Image]) -> None:
    """Mounted by fusermount; fuse-overlayfs goes on, although the process that started it is gone."""
    if shutil.which("fuse-overlayfs") is None:
        pytest.skip("no package fuse-overlayfs")
    seen = play(sandbox, pack_for(pack, USER), [], USER, TAKEOVERS + WRITING, OPTIONS)
    assert seen == "fuse.fuse-overlayfs"


def test_in_a_user_namespace(sandbox: Sandbox, pack: Callable[..., Image]) -> None:
    enter = ["--user", "--map-root-user"]
    assert play(sandbox, pack_for(pack, 0), enter, 0, TAKEOVERS + WRITING, OPTIONS) == "overlay"


def test_of_several_flists(pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox) -> None:
    """The tree of all of them, with its nodes, and chunks of each."""

    def lower(root: Path) -> None:
        write(root / "low" / "file", os.urandom(700_000))
        write(root / "both", "of the lower")

    def upper(root: Path) -> None:
        write(root / "high" / "file", os.urandom(700_000))
        write(root / "both", "of the upper")

    below, above = pack("lower", lower), pack("upper", upper)
    mount = supervised(above, "--meta", below.flist, "--prefetch", "off")
    nodes = {path: path.stat().st_ino for path in mount.target.rglob("*")}
    mount.kill()
    low, high = mount.target / "low" / "file", mount.target / "high" / "file"
    assert low.read_bytes() == (below.source / "low" / "file").read_bytes()
    mount.upgrade()
    assert high.read_bytes() == (above.source / "high" / "file").read_bytes()
    assert (mount.target / "both").read_text() == "of the upper"
    assert {path: path.stat().st_ino for path in mount.target.rglob("*")} == nodes
    assert mount.stats()["mount"]["flists"] == [str(below.flist), str(above.flist)]


SOON = "import zerofs.prefetch.completion as c; c.QUIET = 0.3; init = c.Completion.__init__\n"
FAST = "c.Completion.__init__ = lambda self, *given: init(self, *given[:3], 1e9)\n"


def test_completion_goes_on(
    pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    """What the first server did not bring comes by its successors, and the store may go.

    At the rate that is asked for, each brings one batch and then waits; the last one is told to hurry.
    """
    next_server(SOON)

    def files(root: Path) -> None:
        for number in range(24):
            write(root / f"file-{number}", os.urandom(300_000))

    mount = supervised(pack("image", files), "--complete=1K")

    def is_there() -> bool:
        return sandbox.run("zerofs", "warmup", "--check", mount.target, status=None).returncode == 0

    def fetched() -> int:
        return int(mount.stats()["fetch"]["fetched"])

    eventually(lambda: fetched() > 2, "the beginning")
    mount.kill()
    eventually(lambda: fetched() > 2, "more, by its successor")
    next_server(SOON + FAST)
    assert not is_there()
    mount.upgrade()
    eventually(is_there, "all of it, by the last one")
    for chunk in mount.image.chunks():
        chunk.unlink()
    mount.check()
