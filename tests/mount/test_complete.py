"""`--complete`: a mount whose image came into the cache by itself survives the loss of its store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.sandbox import MountProcess, Sandbox
from zerofs.cli.mount import parse_mount
from zerofs.errors import UsageError

GIVE_UP = 60.0  # seconds


@pytest.mark.skipif(os.geteuid() != 0, reason="the servers of these mounts run as root")
def test_the_image_comes_into_the_cache_by_itself(
    sandbox: Sandbox, pack: Callable[..., Image], mounted: Callable[..., MountProcess]
) -> None:
    content = {f"dir/{number}": os.urandom(200_000 if number % 7 == 0 else 300) for number in range(50)}
    image = pack("image", lambda root: [write(root / name, data) for name, data in content.items()])
    mount = mounted(image, "--complete=100M")
    give_up = time.monotonic() + GIVE_UP
    while sandbox.run("zerofs", "warmup", "--check", mount.target, status=None).returncode:
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.2)
    for path in image.chunks():
        path.unlink()
    assert {name: (mount.target / name).read_bytes() for name in content} == content
    assert mount.stop() == 0


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ([], None),
        (["--complete"], 10 << 20),
        (["-complete=1M"], 1 << 20),
        (["-o", "ro,complete"], 10 << 20),
        (["--complete", "--prefetch=off"], None),
        (["-o", "complete=5K,ro"], 5 << 10),
    ],
)
def test_the_rate_is_behind_an_equals_sign_or_usual(words: list[str], rate: int | None) -> None:
    options = parse_mount([*words, "image.flist", "/mnt"])
    assert (options.complete, options.meta, options.target) == (rate, ("image.flist",), Path("/mnt"))


def test_the_bound_on_what_is_brought_ahead() -> None:
    assert parse_mount(["image.flist", "/mnt"]).prefetch_rate is None
    assert parse_mount(["--prefetch-rate", "20M", "image.flist", "/mnt"]).prefetch_rate == 20 << 20
    assert parse_mount(["-o", "ro,prefetch-rate=1M", "image.flist", "/mnt"]).prefetch_rate == 1 << 20
    with pytest.raises(UsageError, match="not a size"):
        parse_mount(["--prefetch-rate=fast", "image.flist", "/mnt"])


def test_a_rate_that_is_none() -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_mount(["--complete=fast", "image.flist", "/mnt"])
