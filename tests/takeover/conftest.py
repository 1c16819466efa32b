"""Supervised mounts, their servers, and code that a test has the next server run before anything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Image, pack, write
from tests.support.sandbox import MountProcess, Sandbox
from tests.support.waiting import eventually

__all__ = ["pack"]  # the fixture

REPLACED = (
    r"which (served|was to serve) the mount, was killed by SIGKILL",
    r"a successor has failed|the successor has failed: this process goes on|is served by process \d+ as before",
)
HOOK = """
import os, sys
if "zerofs.cli.serving" in sys.orig_argv and os.path.exists({place!r}):
    exec(open({place!r}).read())
"""
READER = """
import mmap, os, random, sys
source, root, stop = sys.argv[1:]
files = [os.path.relpath(os.path.join(at, name), source) for at, _, names in os.walk(source) for name in names]
chance, buffer, count = random.Random(os.getpid()), mmap.mmap(-1, 1 << 20), 0
while not os.path.exists(stop):
    name = chance.choice(files)
    flags = chance.choice([os.O_RDONLY, os.O_RDONLY | os.O_DIRECT])
    there = os.open(os.path.join(root, name), flags)
    with open(os.path.join(source, name), "rb") as file:
        while wanted := file.read(1 << 20):
            got = os.preadv(there, [buffer], file.tell() - len(wanted))
            if buffer[:got] != wanted:
                sys.exit(f"{name}: wrong bytes")
    os.close(there)
    if len(os.listdir(os.path.dirname(os.path.join(root, name)))) == 0:
        sys.exit("an empty directory")
    count += 1
print(count)
"""


def fill(root: Path) -> None:
    """A few thousand names, and files of no, one and several chunks."""
    for number in range(600):
        write(root / f"dir-{number % 20}" / f"file-{number}", f"content of {number}\n" * (number % 7))
    for number in range(6):
        write(root / "large" / f"file-{number}", os.urandom(1_500_000))


def base(root: Path) -> None:
    """What a swap finds."""
    write(root / "held", "old, and held open")
    write(root / "kept", os.urandom(700_000))


def update(root: Path) -> None:
    """What it lays over that."""
    write(root / "fresh", "fresh")
    write(root / "held", "new")


def hang_up(process: int, backend: Path, layer: Path) -> None:
    """Have a mount swap its tree: `process` is the supervisor's."""
    (backend / ".layered").write_text(str(layer))
    os.kill(process, signal.SIGHUP)


class Supervised:
    """A supervised mount, and who serves it."""

    def __init__(self, process: MountProcess, sandbox: Sandbox, image: Image) -> None:
        self.process = process
        self.target = process.target
        self.image = image
        self._sandbox = sandbox

    @property
    def server(self) -> int:
        return int(self.stats()["mount"]["server"])

    def stats(self) -> dict[str, Any]:
        return json.loads(self._sandbox.run("zerofs", "stats", "--json", self.target).stdout)  # type: ignore[no-any-return]

    def kill(self) -> None:
        """SIGKILL to the server; returns when another one has taken over."""
        count = self.process.log().count("has taken over")
        os.kill(self.server, signal.SIGKILL)
        eventually(lambda: self.process.log().count("has taken over") > count, "the takeover")

    def upgrade(self, status: int | None = 0) -> subprocess.CompletedProcess[bytes]:
        return self._sandbox.run("zerofs", "upgrade", "--json", self.target, status=status)

    def check(self) -> None:
        """Every name, attribute that diff looks at, and byte."""
        subprocess.run(["diff", "-r", self.image.source, self.target], check=True, timeout=60)


class Readers:
    """Processes that read and compare until they are told to stop."""

    def __init__(self, mount: Supervised, place: Path, count: int = 3) -> None:
        self._stop = place / f"stop-{os.urandom(4).hex()}"
        arguments = [sys.executable, "-c", READER, mount.image.source, mount.target, self._stop]
        self._processes = [
            subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(count)
        ]

    def end(self) -> None:
        self._stop.touch()
        for process in self._processes:
            said, error = process.communicate(timeout=60)
            assert process.returncode == 0, error.decode()
            assert int(said) > 0

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", fill)


@pytest.fixture
def supervised(sandbox: Sandbox) -> Callable[..., Supervised]:
    """``supervised(image, *options)``: read-only unless a ``--backend`` is among the options, or `union` is wanted."""

    def mount(
        image: Image,
        *options: str | os.PathLike[str],
        union: bool = False,
        allow: tuple[str, ...] = (),
        **keywords: Any,
    ) -> Supervised:
        chosen = ["--supervised", *map(os.fspath, options)]
        if "--backend" not in chosen and not union:
            chosen.append("--ro")
        if "--storage-url" not in chosen:
            chosen += ["--storage-url", f"dir://{image.store}"]
        chosen += ["--cache", os.fspath(sandbox.path / "cache"), "--meta", os.fspath(image.flist)]
        process = sandbox.mount(*chosen, allow=(*REPLACED, *allow), **keywords)
        return Supervised(process, sandbox, image)

    return mount


@pytest.fixture
def readers(sandbox: Sandbox) -> Iterator[Callable[[Supervised], Readers]]:
    started: list[Readers] = []

    def start(mount: Supervised) -> Readers:
        started.append(Readers(mount, sandbox.path))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def next_server(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``next_server(code)``: each server that starts from now on runs `code` first; none without any."""
    place = sandbox.directory("hook") / "code"
    (place.parent / "sitecustomize.py").write_text(HOOK.format(place=str(place)))
    monkeypatch.setenv("PYTHONPATH", str(place.parent), prepend=os.pathsep)

    def run(code: str) -> None:
        place.unlink() if not code else place.write_text(code)

    return run
