"""The fast engine on a real mount while everything around it moves: readers, evictions, swaps, unmounts.

``ZEROFS_STRESS_SECONDS`` makes it longer than the few seconds that it takes by default.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, holding, pack
from tests.support.sandbox import Sandbox

__all__ = ["pack"]  # a fixture

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

SECONDS = float(os.environ.get("ZEROFS_STRESS_SECONDS", "4"))
CHUNK = 512 * 1024
CONTENT = {f"d{n % 7}/f{n}": random.Random(n).randbytes((n * 37_000) % (3 * CHUNK)) for n in range(60)}


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", holding(CONTENT))


class Readers:
    """Threads that read random pieces of random files and compare them."""

    def __init__(self, root: Path, count: int) -> None:
        self._root = root
        self._stop = threading.Event()
        self.wrong: list[str] = []
        self.reads = 0
        self._threads = [threading.Thread(target=self._read, args=(seed,)) for seed in range(count)]
        for thread in self._threads:
            thread.start()

    def _read(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._stop.is_set():
            name = chance.choice(list(CONTENT))
            at = chance.randrange(len(CONTENT[name]) + 1)
            size = chance.choice([100, 5000, 300_000, 2_000_000])
            try:
                descriptor = os.open(self._root / name, os.O_RDONLY)
                try:
                    if chance.random() < 0.3:
                        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    got = os.pread(descriptor, size, at)
                finally:
                    os.close(descriptor)
            except OSError as error:
                self.wrong.append(f"{name}: {error}")
                return
            if got != CONTENT[name][at : at + size]:
                self.wrong.append(f"{name}: wrong bytes at {at}")
                return
            self.reads += 1

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.wrong == []
        assert self.reads > 0


def options(image: Image, sandbox: Sandbox) -> list[str | os.PathLike[str]]:
    return [
        *("--engine", "fast", "--meta", image.flist, "--storage-url", f"dir://{image.store}"),
        *("--cache", sandbox.path / "cache"),
    ]


def drop_entries(cache: Path, chance: random.Random) -> int:
    """Delete half of what the cache holds, as another process; returns how many."""
    script = f"""
import lmdb, random
env = lmdb.open({str(cache)!r}, max_dbs=8, map_size={256 << 20}, max_readers=1024)
chunks = env.open_db(b"chunks")
with env.begin(write=True, db=chunks) as txn:
    names = list(txn.cursor().iternext(keys=True, values=False))
    victims = random.Random({chance.randrange(10**9)}).sample(names, len(names) // 2)
    for name in victims:
        txn.delete(name)
print(len(victims))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_entries_vanish_under_readers(image: Image, sandbox: Sandbox) -> None:
    """Another process deletes cached chunks, and their pages are used again, while they are read."""
    mount = sandbox.mount(*options(image, sandbox), "--ro", "--cache-size", "256M")
    readers = Readers(mount.target, 6)
    chance = random.Random(11)
    dropped = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and not readers.wrong:
        Path("/proc/sys/vm/drop_caches").write_text("1")
        dropped += drop_entries(sandbox.path / "cache", chance)
    readers.end()
    assert dropped > 0
    assert mount.stop() == 0


def test_walks_reads_and_unmounts_at_once(image: Image, sandbox: Sandbox) -> None:
    """Mounted, walked and read by many, and taken down under them, again and again."""
    end = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < end or not rounds:
        mount = sandbox.mount(*options(image, sandbox), "--ro")
        walkers = [
            subprocess.Popen(
                ["sh", "-c", "while find . -type f -exec cat {} + ; do :; done"],
                cwd=mount.target,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(4)
        ]
        time.sleep(random.Random(rounds).random() * 0.5)
        assert mount.stop(random.Random(rounds).choice([signal.SIGTERM, signal.SIGINT])) == 0
        for walker in walkers:  # their working directory is gone: find fails, and the loop ends
            try:
                walker.wait(timeout=10)
            except subprocess.TimeoutExpired:
                walker.kill()
                walker.wait()
        rounds += 1


def test_no_memory_or_descriptor_leaks(image: Image, sandbox: Sandbox) -> None:
    mount = sandbox.mount(*options(image, sandbox), "--ro")

    def own() -> tuple[int, int]:
        rollup = Path(f"/proc/{mount.pid}/smaps_rollup").read_text()
        anonymous = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon"))
        return anonymous, len(os.listdir(f"/proc/{mount.pid}/fd"))

    def work() -> None:
        readers = Readers(mount.target, 4)
        time.sleep(SECONDS / 4)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        time.sleep(SECONDS / 4)
        readers.end()

    work()
    before = own()
    work()
    after = own()
    assert after[1] <= before[1] + 1
    assert after[0] < before[0] + 4096  # KiB
    assert mount.stop() == 0
