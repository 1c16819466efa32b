"""Little memory: a mount in a control group of 128 MiB reads a larger image through, slower perhaps, and lives."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Image
from tests.support.sandbox import BINARIES, MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

LIMIT = 128 << 20
FILES = 6
SIZE = 30 << 20  # bytes of each


class Group:
    """A control group for memory of our own, of whichever version the host has."""

    def __init__(self) -> None:
        name = f"zerofs-tests-{os.getpid()}"
        first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        if (first / "memory.limit_in_bytes").exists():
            self.path, bound = first / name, "memory.limit_in_bytes"
        elif "memory" in _text(second / "cgroup.subtree_control").split():
            self.path, bound = second / name, "memory.max"
        else:
            pytest.skip("the kernel has no control group for memory here")
        try:
            self.path.mkdir()
        except OSError as error:
            pytest.skip(f"the kernel has no control group to be made here: {error.strerror}")
        (self.path / bound).write_text(str(LIMIT))

    def run(self, *command: str) -> list[str]:
        """The command that runs `command` in the group."""
        return ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(self.path), *command]

    @property
    def killed(self) -> int:
        """How many processes the kernel ended for lack of memory."""
        text = _text(self.path / "memory.oom_control") + _text(self.path / "memory.events")
        return sum(map(int, re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE)))

    @property
    def peak(self) -> int:
        return int(_text(self.path / "memory.max_usage_in_bytes") or _text(self.path / "memory.peak") or 0)

    def close(self) -> None:
        self.path.rmdir()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group()
    yield group
    group.close()


def fill(root: Path) -> None:
    for number in range(FILES):
        (root / f"f{number}").write_bytes(os.urandom(SIZE))


DIGESTS = """
import hashlib, sys
for name in sys.argv[1:]:
    with open(name, "rb", buffering=0) as file:
        print(hashlib.file_digest(file, "blake2b").hexdigest())
"""


def test_a_mount_with_its_readers_in_128_mib(sandbox: Sandbox, group: Group, engine: str) -> None:
    image = Image(sandbox, "large", fill)
    names = [f"f{number}" for number in range(FILES)]
    expected = [hashlib.blake2b((image.source / name).read_bytes()).hexdigest() for name in names]
    target = sandbox.directory("mnt")
    options = [
        "--ro",
        "--engine",
        engine,
        "--meta",
        str(image.flist),
        "--storage-url",
        f"dir://{image.store}",
    ]
    command = [str(BINARIES / "g8ufs"), *options, "--cache", str(sandbox.path / "cache"), str(target)]
    mount = MountProcess(group.run(*command), target, sandbox.path / "stderr.log", (), 60.0)
    try:
        for _ in range(2):  # from the store, then from the cache
            reader = group.run(sys.executable, "-c", DIGESTS, *(str(target / name) for name in names))
            done = subprocess.run(reader, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, f"{done.stderr}\n{mount.log()}\nkilled: {group.killed}"
            assert done.stdout.split() == expected
        assert group.peak > LIMIT // 2  # the bound was felt
        assert group.killed == 0
        assert mount.stop() == 0
        assert mount.problems() == []
    finally:
        mount.stop()
