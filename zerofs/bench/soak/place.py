"""Where a soak runs: a small disk with the cache, a mount of what the stores hold, and who reads it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from zerofs.bench.soak.cache import CacheWatch, fsck
from zerofs.bench.soak.disk import SmallDisk
from zerofs.bench.soak.faults import ROT, World
from zerofs.bench.soak.mounted import Mounted, supervision
from zerofs.bench.soak.outcome import Outcome
from zerofs.bench.soak.reader import NOT_MOUNTED, Readings
from zerofs.bench.soak.stores import Stores
from zerofs.bench.soak.tree import differences, make_tree

SLACK = 5.0  # seconds beyond the timeout that a busy machine may need before a wait counts as a hang
HEAL = 60.0  # seconds within which everything must be readable once nothing is spoiled any more
_FAULTY = ("EIO",)  # what a reader may see where every store fails
_DEAD = (*_FAULTY, "ENOTCONN", "ECONNABORTED", "ENODEV", NOT_MOUNTED)  # and where nobody serves for a moment


class Settings(NamedTuple):
    """How a soak is set up.  Sizes are bytes, times seconds."""

    seed: int
    engine: str = "auto"
    timeout: float = 5.0
    tree_size: int = 48 << 20
    cache_size: int = 16 << 20
    readers: int = 2
    supervised: bool | None = None  # None: where that can be had


def make_stores(workdir: Path, chance: random.Random, size: int) -> Stores:
    """A tree of about `size` bytes, and stores that hold it."""
    source = workdir / "source"
    make_tree(source, chance, size)
    return Stores(workdir, source)


class Place:
    """A mount of the tree in `stores`, set up in `workdir`.  Leaving it takes it down."""

    def __init__(self, workdir: Path, stores: Stores, settings: Settings) -> None:
        self.settings = settings
        self.source = stores.source
        supervised = settings.supervised
        if supervised is None:  # llfuse cannot take over a mount that is in use
            supervised = settings.engine != "llfuse" and supervision()
        self.outcome = Outcome(settings.seed, settings.engine, supervised, settings.timeout)
        with ExitStack() as stack:
            disk = None
            if os.geteuid() == 0:
                disk = SmallDisk(workdir / "disk", 4 * settings.cache_size)
                stack.callback(disk.close)
            cache = workdir / "disk" / "cache"
            options, layers = _options(settings, stores, cache), (stores.twin, stores.flist)
            mounted = Mounted(workdir, options, layers, supervised=supervised)
            stack.callback(mounted.close)
            self.world = World(stores, mounted, disk, cache, random.Random(settings.seed))
            self._readers: list[subprocess.Popen[bytes]] = []
            stack.callback(self._end_readers)
            mounted.start()
            mounted.starts.clear()  # the first one compiles the flist
            self._closing = stack.pop_all()

    @property
    def mounted(self) -> Mounted:
        return self.world.mounted

    def start_readers(self) -> None:
        """Readers until `stop_readers`; they read when this returns."""
        begun = len(self._readers)
        for _ in range(self.settings.readers):
            words = [
                self.mounted.target,
                self.source,
                self.world.chance.randrange(1 << 30),
                self.settings.timeout + SLACK,
            ]
            command = [sys.executable, "-m", "zerofs.bench.soak.reader", *map(str, words)]
            self._readers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
        for reader in self._readers[begun:]:
            assert reader.stdout is not None
            reader.stdout.readline()

    def stop_readers(self) -> None:
        """Count what they saw."""
        allowed = _FAULTY if self.outcome.supervised else _DEAD
        for reader in self._readers:
            reader.send_signal(signal.SIGTERM)
        for reader in self._readers:
            try:
                said, _ = reader.communicate(timeout=3 * (self.settings.timeout + SLACK))
                self.outcome.add(Readings(**json.loads(said)), allowed)
            except (subprocess.TimeoutExpired, ValueError):
                self.outcome.hangs += 1  # it waits where not even a signal is heard, or was killed
        self._end_readers()

    def check(self) -> None:
        """Compare the whole tree; what cannot be read must be readable soon."""
        deadline = time.monotonic() + HEAL
        while True:
            try:
                self.outcome.found_wrong(list(differences(self.mounted.target, self.source)))
            except OSError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
                self.outcome.found_wrong([f"not readable at the end: {error}"])
            self.outcome.checks += 1
            return

    def watch_cache(self) -> CacheWatch:
        """Begin to look at the cache."""
        watch = CacheWatch(self.world.cache, self.mounted.target)
        watch.begin()
        return watch

    def prove_cache(self) -> None:
        """Have `zerofs fsck` read all of the cache; where it had rotted, what that left is dropped first."""
        if self.outcome.faults.get(ROT):
            self.outcome.rotten += len(fsck(self.world.cache, repair=True))
        self.outcome.cache_damage += fsck(self.world.cache)
        self.outcome.proofs += 1

    def finish(self) -> Outcome:
        """Unmount, look over what is left, and give the counts."""
        self._end_readers()
        self.mounted.close()
        self.outcome.lost = self.mounted.lost
        self.outcome.starts = self.mounted.starts
        log = self.mounted.log.read_text(errors="replace")
        self.outcome.swaps = log.count("swapped the tree in ")
        levels = re.findall(r"\b(WARNING|ERROR|CRITICAL|Traceback|killed by SIG(?!KILL)\w+)\b", log)
        self.outcome.warnings = dict(Counter(levels))
        return self.outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _end_readers(self) -> None:
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.kill()
            reader.communicate()


def _options(settings: Settings, stores: Stores, cache: Path) -> list[str | os.PathLike[str]]:
    return [
        *("--engine", settings.engine, "--timeout", f"{settings.timeout:g}", "--timings"),
        *("--cache", cache, "--cache-size", str(settings.cache_size)),
        *("--local-router", stores.router, "--meta", stores.flist),
    ]
