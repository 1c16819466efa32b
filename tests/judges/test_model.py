"""The read-write mount against a model: the same tree in a plain directory, with random operations on both."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.judges.operations import difference
from tests.mount.conftest import Image, write
from tests.support.sandbox import MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's overlayfs takes root")

STEPS = 1500


def fill(root: Path) -> None:
    """Files of no, one and several chunks, in a few directories, and links."""
    chance = random.Random(7)
    for number in range(24):
        size = chance.choice((0, 10, 5000, 600_000, 1_200_000))
        write(root / f"dir-{number % 4}" / f"file-{number}", chance.randbytes(size))
    (root / "dir-0" / "link").symlink_to("file-0")
    (root / "dir-1" / "astray").symlink_to("nowhere")
    (root / "dir-2" / "deep").mkdir()
    write(root / "dir-2" / "deep" / "leaf", b"leaf")


@pytest.mark.parametrize("seed", range(3))
def test_a_union_does_what_a_directory_does(
    seed: int, pack: Callable[..., Image], mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    image = pack("image", fill)
    mount = mounted(image, "--backend", sandbox.directory("backend"))
    model = sandbox.path / "model"
    shutil.copytree(image.source, model, symlinks=True)
    assert difference(seed, STEPS, model, mount.target) is None
    assert mount.stop() == 0
    again = mounted(image, "--backend", sandbox.path / "backend")  # nothing of it was only in a cache
    assert difference(seed + 100, 200, model, again.target) is None


def test_the_judge_sees_a_single_bit(tmp_path: Path) -> None:
    model, judged = tmp_path / "model", tmp_path / "judged"
    for root in (model, judged):
        fill(root)
    assert difference(1, 50, model, judged) is None
    path = next(judged / name for name in sorted(os.listdir(judged)) if (judged / name).is_dir()) / "bit"
    for root, content in ((model, b"\0"), (judged, b"\1")):
        (root / path.relative_to(judged)).write_bytes(content)
    assert "bit" in (difference(2, 0, model, judged) or "")
