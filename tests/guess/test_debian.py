"""Guesses about a real Debian root, beside what its programs really open.

The table that the second test prints (``pytest -s``) is the measure of the heuristics: files of which each first
read is a wait without guesses, those that were guessed before they were opened, and those guessed in vain.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.guess.images import TestImage
from tests.support.debianroot import DebianRoot
from zerofs.flist import paths
from zerofs.prefetch.guess import elf

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a chroot takes root"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

WORKLOADS = {
    "true": ["/bin/true"],
    "python3": ["python3", "-c", "import json, ssl, sqlite3"],
    "perl": ["perl", "-MPOSIX", "-e", "1"],
    "apt-get": ["apt-get", "--version"],
    "find": ["find", "/", "-xdev"],
}
_OPENED = re.compile(r'^(?:\d+ +)?(?:execve\("([^"]+)"|openat\(AT_FDCWD, "([^"]+)").*\) = \d+', re.MULTILINE)


class Quality(NamedTuple):
    """Of one workload; files."""

    opened: int
    waits: int  # opened without having been guessed
    guessed: int
    used: int  # guessed, and opened afterwards


@pytest.fixture(scope="module")
def image(debian_root: DebianRoot) -> TestImage:
    return TestImage(debian_root.directory)


def opened(image: TestImage, argv: list[str], log: Path) -> list[int]:
    """The files (rows) that a program opens, in the order of their first opening."""
    command = ["strace", "-f", "-q", "-e", "trace=openat,execve", "-o", log, "chroot", image.root, *argv]
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    text = log.read_text(errors="surrogateescape")
    text = text[text.index("execve(", text.index("execve(") + 1) :]  # behind the start of chroot itself
    rows: dict[int, None] = {}
    for match in _OPENED.finditer(text):
        try:
            row = paths.find(image.tree, os.fsencode(match[1] or match[2]))
        except LookupError:
            continue  # of the host, before the chroot
        if image.tree.refs(row):
            rows[row] = None
    return list(rows)


@pytest.mark.parametrize("program", ["/usr/bin/python3", "/usr/bin/perl", "/usr/bin/apt-get"])
def test_a_programs_libraries_are_those_that_the_loader_opens(image: TestImage, program: str) -> None:
    row = paths.find(image.tree, program.encode())
    layout = elf.layout(image.read(row, 0, elf.HEAD) or b"")
    assert layout is not None
    assert layout.interpreter is not None
    loader = (image.read(row, *layout.interpreter) or b"").rstrip(b"\0")
    done = subprocess.run(
        ["chroot", image.root, loader, "--list", program], capture_output=True, text=True, check=True
    )
    libraries = {paths.find(image.tree, path.encode()) for path in re.findall(r"(/\S+) \(0x", done.stdout)}
    assert len(libraries) > 2
    owners = {chunk: each for each in (row, *libraries) for chunk in image.tree.refs(each)}
    found = image.guesses().follow(row)
    assert libraries <= {owners[chunk] for chunk in found if chunk in owners}
    wasted = [path for path in image.files(found) if image.row(path) not in {*libraries, row}]
    assert set(wasted) <= {"etc/ld.so.cache"} | {path for path in wasted if "/python3" in path}


def test_most_files_are_guessed_before_they_are_opened(image: TestImage, tmp_path: Path) -> None:
    table = {name: quality(image, opened(image, argv, tmp_path / name)) for name, argv in WORKLOADS.items()}
    print("\nworkload  opened  waits  guessed  used")
    for name, each in table.items():
        print(f"{name:8}  {each.opened:6}  {each.waits:5}  {each.guessed:7}  {each.used:4}")
    for name, each in table.items():
        assert each.waits * 2 <= each.opened, name
        assert each.used * 3 >= each.guessed, name


def quality(image: TestImage, rows: list[int]) -> Quality:
    guesses = image.guesses()
    guessed: dict[str, None] = {}
    waits = 0
    for row in rows:
        path = os.fsdecode(image.path(row))
        waits += path not in guessed
        new = image.files(guesses.follow(row))
        guessed.update((each, None) for each in new if each != path)
    files = {os.fsdecode(image.path(row)) for row in rows}
    return Quality(len(rows), waits, len(guessed), len(guessed.keys() & files))
