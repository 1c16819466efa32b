"""Reads a mount without a pause and compares what it gets with the tree that was packed.

A program of its own, ``python -m zerofs.bench.soak.reader MOUNT SOURCE SEED LIMIT``, so that a file system that hangs
hangs nobody else.  It prints a line when it begins; SIGTERM ends it, and it prints one of JSON (`Readings`) then.

Threads: one walks, one reads files from front to back, two read anywhere, one of them around the page cache.  Each
pass works from an open descriptor of the mount's root: where the mount is replaced under it, it fails and the next
pass finds the new one, and the bare mount point in between is never mistaken for a tree.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

NOT_MOUNTED = "not mounted"
_PIECE = 128 << 10  # bytes read at once: what one request of the kernel holds
_MOST_NAMED = 20  # wrong readings that are named


class Readings(NamedTuple):
    """What one reader saw."""

    passes: int
    operations: int
    bytes: int
    errors: dict[str, int]  # by the name of the errno
    wrong: list[str]  # named, the first few
    wrong_count: int
    late: int  # operations that took longer than the limit
    stuck: int  # threads that were still waiting when the limit was over
    longest: float  # seconds


class Reader:
    """Four threads over one tree.  `_lock` guards the counters."""

    def __init__(self, root: Path, source: Path, seed: int, limit: float) -> None:
        self._root, self._source, self._limit = root, source, limit
        self._chance = random.Random(seed)
        self._files = [
            path.relative_to(source)
            for path in sorted(source.rglob("*"))
            if path.is_file() and not path.is_symlink()
        ]
        self._place = root.parent.stat().st_dev  # of the bare mount point
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._errors: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._wrong_count = self._passes = self._operations = self._bytes = self._late = 0
        self._longest = 0.0

    def run(self, ended: Callable[[], object]) -> Readings:
        """Read until `ended` returns."""
        work = (self._walk, self._sequential, self._anywhere, self._around_the_cache)
        threads = [
            threading.Thread(
                target=self._loop, args=(each, random.Random(self._chance.random())), daemon=True
            )
            for each in work
        ]
        for thread in threads:
            thread.start()
        ended()
        self._stop.set()
        deadline = time.monotonic() + self._limit
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            return Readings(
                self._passes, self._operations, self._bytes, dict(self._errors), self._wrong,
                self._wrong_count, self._late, sum(thread.is_alive() for thread in threads), self._longest,
            )  # fmt: skip

    def _loop(self, work: Callable[[int, random.Random], None], chance: random.Random) -> None:
        while not self._stop.is_set():
            try:
                with self._operation():
                    root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                self._failed(error)
                continue
            try:
                if os.fstat(root).st_dev == self._place:
                    self._count(NOT_MOUNTED)
                else:
                    work(root, chance)
                    self._passes += 1
            except OSError as error:
                self._failed(error)
            finally:
                os.close(root)

    # -- what is read ------------------------------------------------------------------------

    def _walk(self, root: int, chance: random.Random) -> None:
        self._walk_directory(root, self._source)

    def _walk_directory(self, directory: int, source: Path) -> None:
        with self._operation():
            found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(directory)}
        if sorted(found) != sorted(path.name for path in source.iterdir()):
            self._is_wrong(f"{source}: lists {sorted(found)}")
            return
        for name, status in found.items():
            expected = (source / name).lstat()
            if (status.st_mode, status.st_uid) != (expected.st_mode, expected.st_uid):
                self._is_wrong(f"{source / name}: mode {status.st_mode:o}")
            if stat.S_ISDIR(status.st_mode) and not self._stop.is_set():
                descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
                try:
                    self._walk_directory(descriptor, source / name)
                finally:
                    os.close(descriptor)

    def _sequential(self, root: int, chance: random.Random) -> None:
        path = chance.choice(self._files)
        with self._opened(root, path, chance) as file:
            for at in range(0, (self._source / path).stat().st_size + 1, _PIECE):
                self._read(file, path, at, _PIECE)

    def _anywhere(self, root: int, chance: random.Random) -> None:
        path = chance.choice(self._files)
        size = (self._source / path).stat().st_size
        with self._opened(root, path, chance) as file:
            for _ in range(chance.randrange(1, 6)):
                self._read(file, path, chance.randrange(size + 100), chance.randrange(1, _PIECE))

    def _around_the_cache(self, root: int, chance: random.Random) -> None:
        path = chance.choice(self._files)
        size = (self._source / path).stat().st_size
        with self._opened(root, path, chance, os.O_DIRECT) as file, mmap.mmap(-1, _PIECE) as buffer:
            at = chance.randrange(size // 4096 + 1) * 4096
            with self._operation():
                length = os.preadv(file, [buffer], at)
            self._compare(path, at, buffer[:length], at < size)

    @contextmanager
    def _opened(self, root: int, path: Path, chance: random.Random, flags: int = 0) -> Iterator[int]:
        with self._operation():
            file = os.open(path, os.O_RDONLY | flags, dir_fd=root)
        try:
            if chance.random() < 0.7:  # so that the file system is asked, and not the page cache
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            yield file
        finally:
            os.close(file)

    def _read(self, file: int, path: Path, at: int, size: int) -> None:
        try:
            with self._operation():
                got = os.pread(file, size, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._failed(error)  # the rest of the file may be there
            return
        self._compare(path, at, got, at < (self._source / path).stat().st_size)

    def _compare(self, path: Path, at: int, got: bytes, some: bool) -> None:
        """`some`: there are bytes at that place; fewer than were asked for come where an error follows them."""
        with (self._source / path).open("rb", buffering=0) as file:
            expected = os.pread(file.fileno(), len(got), at)
        with self._lock:
            self._bytes += len(got)
        if got != expected or bool(got) != some:
            self._is_wrong(f"{path}: wrong bytes at {at}")

    # -- what is counted ---------------------------------------------------------------------

    @contextmanager
    def _operation(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - started
            with self._lock:
                self._operations += 1
                self._longest = max(self._longest, took)
                self._late += took > self._limit

    def _failed(self, error: OSError) -> None:
        self._count(errno.errorcode.get(error.errno or 0, "?"))

    def _count(self, error: str) -> None:
        with self._lock:
            self._errors[error] += 1
        self._stop.wait(0.02)

    def _is_wrong(self, what: str) -> None:
        with self._lock:
            self._wrong_count += 1
            if len(self._wrong) < _MOST_NAMED:
                self._wrong.append(what)


def main(argv: list[str]) -> None:
    """Read until SIGTERM; what is stuck then does not keep the process from ending."""
    root, source, seed, limit = argv
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print(flush=True)
    readings = Reader(Path(root), Path(source), int(seed), float(limit)).run(ended.wait)
    print(json.dumps(readings._asdict()), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
