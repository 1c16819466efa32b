"""The work that is timed: what users and their programs do with a tree, by means that cost the same everywhere.

What takes microseconds a call is done by a small C program (``load.c``, compiled for the run); what it says it
found is compared with what is there, so that a file system that answers wrongly is a failure, not a fast one.
"""

from __future__ import annotations

import os
import subprocess
import time
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from zerofs.bench import host
from zerofs.bench.corpus import LARGE, Corpus
from zerofs.bench.names import Names, make_lists
from zerofs.errors import MountError

PAGE = 4096  # bytes that a random reader asks for at once
RANDOM_READS = 10_000  # at most; a small file is read as many times as it has pages
READERS = 8
_PASSES = 5  # over the names, where one pass is too short to be timed
_REQUEST = 1 << 20  # bytes


class Done(NamedTuple):
    """What the helper says of its work."""

    seconds: float
    uneven: float  # the time of the last thread over that of the first
    found: int  # names
    size: int  # bytes read


def compile_helper(directory: Path) -> Path:
    """The compiled ``load.c``; raises MountError where there is no C compiler."""
    program = directory / "load"
    source = resources.files("zerofs.bench") / "load.c"
    with resources.as_file(source) as path:
        host.command("cc", "-O2", "-pthread", "-o", program, path)
    return program


class Load:
    """Work on the trees that are mounted from one corpus; every method gives the seconds that it took."""

    def __init__(self, helper: Path, corpus: Corpus, workdir: Path) -> None:
        self._helper = helper
        self._directory = workdir / f"load-{corpus.name}"
        self._lists = make_lists(corpus.directory, self._directory)
        large = corpus.directory / LARGE
        self.large_size = large.stat().st_size if large.is_file() else 0
        self._nothing = self._directory / "nothing"
        self._nothing.mkdir()

    def rehearse(self) -> None:
        """Have the programs themselves in memory: their own start is not what is measured."""
        self.walk(self._nothing)
        self.tar(self._nothing)
        self._help("stat", self._nothing, os.devnull, 1, 1)

    def walk(self, root: Path) -> float:
        """``find -ls``: every directory listed, every entry's attributes and link target read."""
        return _timed("find", root, "-ls")

    def tar(self, root: Path) -> float:
        """``tar`` of the whole tree; not to the null device, for which tar would read nothing."""
        return _timed("tar", "--create", "--file=/dev/zero", "--directory", root, ".")

    def stat(self, root: Path, threads: int) -> float:
        """lstat of every entry, several times over."""
        names = self._lists.entries
        done = self._help("stat", root, names.path, threads, _PASSES)
        return _expect(done, done.found, names.number * _PASSES, "entries")

    def look_for_commands(self, root: Path) -> float:
        """Commands that are not there, looked for along a PATH."""
        return self._miss(root, self._lists.commands)

    def look_for_modules(self, root: Path) -> float:
        """Python modules that are not there, looked for along an import path."""
        return self._miss(root, self._lists.modules)

    def _miss(self, root: Path, names: Names) -> float:
        done = self._help("stat", root, names.path, 1, _PASSES)
        return _expect(done, done.found, 0, "entries")

    def small_files(self, root: Path) -> float:
        """Every small file opened, read and closed."""
        names = self._lists.small_files
        done = self._help("read", root, names.path, 1, 1)
        return _expect(done, done.size, names.size, "bytes")

    def sequential(self, root: Path, block: int = _REQUEST) -> float:
        """The large file from its beginning to its end, `block` bytes at a time."""
        return self._read_large(root, block, 1).seconds

    def readers(self, root: Path) -> float:
        """The large file read by `READERS` threads at once, each its own part."""
        return self._read_large(root, _REQUEST, READERS).seconds

    def unevenness(self, root: Path) -> float:
        """Of that: how many times as long as the first reader the last one took.  No seconds."""
        return self._read_large(root, _REQUEST, READERS).uneven

    def _read_large(self, root: Path, block: int, threads: int) -> Done:
        done = self._help("seq", root / LARGE, block, threads)
        _expect(done, done.size, self.large_size, "bytes")
        return done

    def random(self, root: Path) -> float:
        """4 KiB at a time at random places of the large file, the same places every time."""
        count = min(RANDOM_READS, self.large_size // PAGE)
        done = self._help("random", root / LARGE, count)
        return _expect(done, done.size, count * PAGE, "bytes")

    def _help(self, *arguments: object) -> Done:
        answer = host.command(self._helper, *map(str, arguments)).split()
        return Done(float(answer[0]), float(answer[1]), int(answer[2]), int(answer[3]))


def _expect(done: Done, found: int, wanted: int, what: str) -> float:
    if found != wanted:
        raise MountError(f"{found:,} {what} instead of {wanted:,}", hint="")
    return done.seconds


def _timed(*argv: str | os.PathLike[str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    took = time.perf_counter() - begin
    if done.returncode:
        raise MountError(f"{os.fspath(argv[0])} ended with status {done.returncode}", hint="")
    return took


def read_all(root: Path) -> float:
    """Read every file of the tree."""
    begin = time.perf_counter()
    buffer = bytearray(_REQUEST)
    for directory, _, names in os.walk(root):
        for name in names:
            path = f"{directory}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):  # noqa: PTH113, PTH114 - a hot loop
                _read_file(path, buffer)
    return time.perf_counter() - begin


def _read_file(path: str, buffer: bytearray) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        while os.readv(descriptor, [buffer]):
            pass
    finally:
        os.close(descriptor)
