"""Readers of files that live swaps replace: processes that open the same few names again and again.

Each file holds its version, a number.  A reader ends with an error where an open or a read fails, and where a name that
has shown one version shows an older one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.sandbox import PROCESS_END

NAMES = ("busy/a", "busy/b", "busy/deep/c", "d")

_READER = """
import os, random, sys, time
root, stop, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance, seen, count = random.Random(seed), {}, 0
while not os.path.exists(stop):
    for name in sys.argv[4:]:
        for _ in range(20):
            file = os.open(f"{root}/{name}", os.O_RDONLY)
            version = int(os.read(file, 100))
            if chance.random() < 0.02:
                time.sleep(chance.random() * 0.02)  # holds it for a while
            os.close(file)
            if version < seen.get(name, 0):
                sys.exit(f"{name} shows version {version} after {seen[name]}")
            seen[name], count = version, count + 1
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.002)
print(count)
"""


def write_version(root: Path, version: int) -> None:
    """Fill the tree `root`."""
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(version))


def shown(root: Path) -> set[int]:
    """The versions that the names show."""
    return {int((root / name).read_text()) for name in NAMES}


class VersionReaders:
    """`count` processes that read below `root` until the block ends, which fails where one of them did."""

    def __init__(self, root: Path, stop: Path, count: int = 3) -> None:
        self._stop = stop
        arguments = [sys.executable, "-c", _READER, str(root), str(stop)]
        self._processes = [
            subprocess.Popen(
                [*arguments, str(seed), *NAMES], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for seed in range(count)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.touch()
        ended = [process.communicate(timeout=PROCESS_END) for process in self._processes]
        if failure == (None, None, None):
            assert [error for _, error in ended] == [""] * len(ended)
            assert min(int(count) for count, _ in ended) > 100
