"""The work that is timed: what a user does with a tree, by calls that cost the same everywhere."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from zerofs.bench.corpus import LARGE
from zerofs.errors import MountError

_REQUEST = 1 << 20  # bytes that a sequential reader asks for at once
PAGE = 4096  # bytes that a random reader asks for at once
RANDOM_READS = 10_000  # at most; a small file is read as many times as it has pages


def walk(root: Path) -> None:
    """``find -ls``: every directory listed, every entry's attributes and link target read."""
    done = subprocess.run(["find", root, "-ls"], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise MountError(f"find ended with status {done.returncode} in {root}", hint="")


def _read_file(path: str, buffer: bytearray) -> int:
    total = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        while count := os.readv(descriptor, [buffer]):
            total += count
    finally:
        os.close(descriptor)
    return total


def read_large(root: Path) -> None:
    """The large file from its beginning to its end, 1 MiB at a time."""
    _read_file(str(root / LARGE), bytearray(_REQUEST))


def read_pages(root: Path) -> None:
    """4 KiB at a time at random places of the large file, the same places every time."""
    source = random.Random(13)
    buffer = bytearray(PAGE)
    descriptor = os.open(root / LARGE, os.O_RDONLY)
    try:
        pages = os.fstat(descriptor).st_size // PAGE
        for _ in range(min(RANDOM_READS, pages)):
            os.preadv(descriptor, [buffer], source.randrange(pages) * PAGE)
    finally:
        os.close(descriptor)


def read_all(root: Path) -> None:
    """Every file of the tree."""
    buffer = bytearray(_REQUEST)
    for directory, _, names in os.walk(root):
        for name in names:
            path = f"{directory}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):  # noqa: PTH113, PTH114 - a hot loop
                _read_file(path, buffer)
