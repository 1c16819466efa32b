"""`zerofs pin`, `gc` and `pack` killed at random instants: whoever comes next needs no repair, and does the work."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, pack, write
from tests.support.sandbox import BINARIES, Sandbox

__all__ = ["pack"]  # the fixture

ROUNDS = int(os.environ.get("ZEROFS_KILLS", "3"))
SEED = int(os.environ.get("ZEROFS_SEED", "20261126"))
WARM = ("--cache-size", "16M", "--all")


class Killer:
    """Runs commands, and kills them at some instant of the time that the first, undisturbed, took."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._chance = random.Random(SEED)
        self._took = 0.0

    def run(self, *words: str | os.PathLike[str]) -> None:
        started = time.monotonic()
        self._sandbox.run("zerofs", *words)
        self._took = time.monotonic() - started

    def kill(self, *words: str | os.PathLike[str]) -> None:
        argv = [os.fspath(word) for word in (BINARIES / "zerofs", *words)]
        while True:
            with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                time.sleep(self._took * self._chance.uniform(0.3, 1.0))  # before, the interpreter starts
                is_late = process.poll() is not None
                process.kill()
            if not is_late:
                return
            self._took *= 0.8  # the machine is faster by now


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    def fill(root: Path) -> None:
        for number in range(300):
            write(root / f"dir-{number % 9}" / f"file-{number}", os.urandom(5_000 + number * 50))

    return pack("image", fill)


def check(sandbox: Sandbox, cache: Path) -> None:
    """Nothing is damaged, and nothing was set aside."""
    checked = json.loads(sandbox.run("zerofs", "fsck", "--cache", cache, "--json").stdout)
    assert not checked["damaged"]
    assert not list(cache.glob("data.mdb.bad*"))


def test_pin_and_unpin(image: Image, sandbox: Sandbox) -> None:
    cache = sandbox.path / "ca"
    store = ("--storage-url", f"dir://{image.store}")
    sandbox.run("zerofs", "warmup", "--cache", cache, *WARM, *store, image.flist)
    killer = Killer(sandbox)
    killer.run("pin", "--cache", cache, image.flist)
    for number in range(ROUNDS):
        killer.kill(("pin", "unpin")[number % 2], "--cache", cache, image.flist)
        (told,) = json.loads(sandbox.run("zerofs", "df", "--cache", cache, "--json").stdout)["flists"]
        assert told["chunks"] == told["chunks_cached"]
        check(sandbox, cache)
    sandbox.run("zerofs", "pin", "--cache", cache, image.flist)
    (told,) = json.loads(sandbox.run("zerofs", "df", "--cache", cache, "--json").stdout)["flists"]
    assert told["pinned"]


def test_gc(image: Image, sandbox: Sandbox) -> None:
    cache = sandbox.path / "ca"
    store = ("--storage-url", f"dir://{image.store}")
    killer = Killer(sandbox)
    for number in range(ROUNDS + 1):
        sandbox.run("zerofs", "warmup", "--cache", cache, *WARM, *store, image.flist)
        act = killer.kill if number else killer.run
        act("gc", "--cache", cache, "--unreferenced", "--to", "1M", "--force")
        check(sandbox, cache)
    told = json.loads(sandbox.run("zerofs", "gc", "--cache", cache, "--to", "1M", "--force", "--json").stdout)
    assert told["left"] <= 1 << 20


def test_pack(image: Image, sandbox: Sandbox) -> None:
    """There is no flist, or a whole one; what was stored serves the next."""
    killer = Killer(sandbox)
    flist, store = sandbox.path / "killed.flist", sandbox.path / "another"
    words = ("pack", "--no-router", "--store", f"dir://{store}", image.source, flist)
    killer.run(*words)
    for _ in range(ROUNDS):
        flist.unlink(missing_ok=True)
        killer.kill(*words)
        if flist.exists():
            sandbox.run("zerofs", "ls", flist)
    sandbox.run("zerofs", *words)
    assert [path for path in sandbox.path.iterdir() if path.name.startswith(".")] == []
    sandbox.run("zerofs", "unpack", "--storage-url", f"dir://{store}", flist, sandbox.path / "out")
    subprocess.run(["diff", "-r", image.source, sandbox.path / "out"], check=True)
