"""What is measured: a scenario takes one sample of one subject; how often is the runner's business.

- *Cold*: unmounted, the kernel's caches dropped, mounted again; the cache of what was fetched is full, for that is
  the state of a host that starts its second container.
- *Kernel-cold*: the kernel's caches dropped under the mount; what its server has mapped stays.
- *Warm*: the same work once more on the same mount.
- *Fetch*: cold, with nothing fetched and no index.

Cold samples mount for themselves.  The others are taken of subjects that stay mounted, all of them at once, so that
samples of a round lie close together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from zerofs.bench import costs, host
from zerofs.bench.million import ENTRIES, QUICK_ENTRIES, Million
from zerofs.bench.ours import DoNothing, Zerofs
from zerofs.bench.subjects import Plain, Subject
from zerofs.bench.wire import SMALL_CHUNKS, Wire
from zerofs.bench.work import READERS, Load, read_all

PEERS = "peers"
FETCH = "fetch"
SUITES = (PEERS, FETCH)

Work = Callable[[Load, Path], float]  # gives what it measured: seconds, as a rule
Sample = Callable[[Subject, Load], float]


def _everybody(_: type[Subject]) -> bool:
    return True


def _mounted(kind: type[Subject]) -> bool:
    return kind not in (Plain, DoNothing)


def _with_memory(kind: type[Subject]) -> bool:
    return kind.serves and kind is not DoNothing


def _ours(kind: type[Subject]) -> bool:
    return kind is Zerofs


def _with_store(kind: type[Subject]) -> bool:
    return kind is not DoNothing


class Scenario(NamedTuple):
    """A row of the table.  Less is better, always."""

    name: str
    title: str
    sample: Sample
    corpus: str = "image"  # or "file"
    unit: str = "s"  # "MiB", "ratio"
    takes: Callable[[type[Subject]], bool] = _everybody
    begin: Sample | None = None  # once per subject, which is mounted and stays so until the scenario ends
    drops: bool = True  # needs to drop the kernel's caches
    suite: str = PEERS


def _timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def _after_drop(subject: Subject, load: Load, work: Work) -> float:
    host.drop_caches()
    subject.mount()
    try:
        load.rehearse()
        return work(load, subject.tree)
    finally:
        subject.unmount()


def _cold(name: str, title: str, work: Work, corpus: str = "image") -> Scenario:
    def sample(subject: Subject, load: Load) -> float:
        subject.fill()
        return _after_drop(subject, load, work)

    return Scenario(name, title, sample, corpus)


def _kernel_cold(name: str, title: str, work: Work, corpus: str = "image", unit: str = "s") -> Scenario:
    def sample(subject: Subject, load: Load) -> float:
        host.drop_caches()
        load.rehearse()
        return work(load, subject.tree)

    return Scenario(name, title, sample, corpus, unit, begin=_work_at(work))


def _warm(name: str, title: str, work: Work, corpus: str = "image") -> Scenario:
    return Scenario(name, title, _work_at(work), corpus, begin=_work_at(work), drops=False)


def _fetched(name: str, title: str, work: Work, corpus: str = "image") -> Scenario:
    def sample(subject: Subject, load: Load) -> float:
        subject.forget()
        return _after_drop(subject, load, work)

    return Scenario(name, title, sample, corpus, takes=_with_store, suite=FETCH)


def _work_at(work: Work) -> Sample:
    return lambda subject, load: work(load, subject.tree)


def _mount_time(subject: Subject, mount: Callable[[], None]) -> float:
    """Seconds from exec until the tree can be used."""
    try:
        return _timed(mount)
    finally:
        subject.unmount()


def _mount(subject: Subject, load: Load) -> float:
    """With the index compiled, and all that mounting reads in the page cache."""
    subject.mount()
    subject.unmount()
    return _mount_time(subject, subject.mount)


def _union(subject: Subject) -> Callable[[], None]:
    return subject.mount_union if isinstance(subject, Zerofs) else subject.mount


def _first_mount(subject: Subject, load: Load) -> float:
    """Of a flist that this host has never seen, with its read-write layer."""
    subject.forget()
    host.drop_caches()
    return _mount_time(subject, _union(subject))


def _next_mount(subject: Subject, load: Load) -> float:
    """The same flist again."""
    _mount_time(subject, _union(subject))
    return _mount_time(subject, _union(subject))


def _memory(subject: Subject, load: Load) -> float:
    """MiB of the server's own memory once the whole image has been read."""
    subject.mount()
    try:
        read_all(subject.tree)
        return host.own_memory(subject.server())
    finally:
        subject.unmount()


def _memory_cached(subject: Subject, load: Load) -> float:
    subject.fill()
    return _memory(subject, load)


def _memory_fetched(subject: Subject, load: Load) -> float:
    subject.forget()
    return _memory(subject, load)


@lru_cache(maxsize=1)
def _wire(store: str) -> Wire:
    return Wire(store)


def _wire_large(subject: Subject, load: Load) -> float:
    return _wire(Zerofs.store).against_redis_benchmark()


def _wire_small(subject: Subject, load: Load) -> float:
    return _wire(Zerofs.store).small_into_the_cache(subject.place)


@lru_cache(maxsize=1)
def _million(place: Path, entries: int) -> Million:
    return Million(place, entries)


def _of_a_million(subject: Subject) -> Million:
    return _million(subject.place, QUICK_ENTRIES if subject.corpus.quick else ENTRIES)


def _million_compiled(subject: Subject, load: Load) -> float:
    return _of_a_million(subject).compile().seconds


def _million_peak(subject: Subject, load: Load) -> float:
    return _of_a_million(subject).compile().peak


def _million_mapped(subject: Subject, load: Load) -> float:
    return _of_a_million(subject).map()


def _million_served(subject: Subject, load: Load) -> float:
    return _of_a_million(subject).memory(load)


def _ours_alone(name: str, title: str, sample: Sample, unit: str = "s") -> Scenario:
    """Of nothing that a file system could be compared in."""
    return Scenario(name, title, sample, "file", unit, takes=_ours, drops=False, suite=FETCH)


def _block(size: int) -> Work:
    return lambda load, root: load.sequential(root, size)


def _threads(count: int) -> Work:
    return lambda load, root: load.stat(root, count)


def _readers_against_one(load: Load, root: Path) -> float:
    """How many times one reader's time `READERS` take for the same file, both kernel-cold."""
    one = load.sequential(root)
    host.drop_caches()
    load.rehearse()
    return load.readers(root) / one


_BLOCKS = (("4k", 4 << 10, "4 KiB"), ("64k", 64 << 10, "64 KiB"), ("1m", 1 << 20, "1 MiB"))

SCENARIOS = (
    Scenario("mount", "exec to ready, warm", _mount, takes=_mounted, drops=False),
    _cold("walk-cold", "find -ls, cold", Load.walk),
    _warm("walk-warm", "find -ls, warm", Load.walk),
    *(
        _warm(f"stat-{count}", f"lstat everything, {count} threads, warm", _threads(count))
        for count in (1, 2, 4, 8)
    ),
    _warm("miss-path", "commands that are not on a PATH, warm", Load.look_for_commands),
    _warm("miss-import", "modules that are not there, warm", Load.look_for_modules),
    _cold("files-cold", "every small file read, cold", Load.small_files),
    _warm("files-warm", "every small file read, warm", Load.small_files),
    _cold("tar-cold", "tar of the image, cold", Load.tar),
    _warm("tar-warm", "tar of the image, warm", Load.tar),
    *(
        _cold(f"seq-cold-{name}", f"large file by {words}, cold", _block(size), "file")
        for name, size, words in _BLOCKS
    ),
    *(
        _kernel_cold(f"seq-kernel-{name}", f"large file by {words}, kernel-cold", _block(size), "file")
        for name, size, words in _BLOCKS
    ),
    *(
        _warm(f"seq-warm-{name}", f"large file by {words}, warm", _block(size), "file")
        for name, size, words in _BLOCKS
    ),
    _cold("random-cold", "4 KiB at random, cold", Load.random, "file"),
    _kernel_cold("readers", f"large file by {READERS} readers, kernel-cold", Load.readers, "file"),
    _kernel_cold(
        "readers-gain", f"{READERS} readers' time over one's", _readers_against_one, "file", "ratio"
    ),
    _kernel_cold("readers-uneven", "last reader's time over the first's", Load.unevenness, "file", "ratio"),
    Scenario(
        "memory",
        "own memory after reading the image",
        _memory_cached,
        "image",
        "MiB",
        _with_memory,
        drops=False,
    ),
    Scenario("mount-first", "first mount, read-write, cold", _first_mount, takes=_mounted, suite=FETCH),
    Scenario(
        "mount-next", "mount again, read-write, warm", _next_mount, takes=_mounted, drops=False, suite=FETCH
    ),
    _fetched("image-fetch", "every file read, fetched from Redis", lambda _, root: read_all(root)),
    _fetched("seq-fetch", "large file, fetched from Redis", Load.sequential, "file"),
    _ours_alone(
        "wire-large", "chunks of 512 KiB undecoded, time over redis-benchmark's", _wire_large, "ratio"
    ),
    _ours_alone("wire-small", f"{SMALL_CHUNKS:,} chunks of 1 KiB into the cache", _wire_small),
    _ours_alone("million-compile", "index of a million entries, compiled", _million_compiled),
    _ours_alone("million-peak", "memory of who compiles it", _million_peak, "MiB"),
    _ours_alone("million-map", "the same mapped and checked", _million_mapped),
    _ours_alone("million-memory", "own memory after find -ls over it", _million_served, "MiB"),
    Scenario(
        "evict",
        "large file fetched through a cache of a quarter of it, time over that without eviction",
        costs.eviction,
        "file",
        "ratio",
        takes=_ours,
        suite=FETCH,
    ),
    Scenario(
        "verify",
        "cached large file read by a new mount, time over that without checksums",
        costs.verification,
        "file",
        "ratio",
        takes=_ours,
        drops=False,
        suite=FETCH,
    ),
    Scenario(
        "verify-cold",
        "the same from the disk",
        costs.verification_cold,
        "file",
        "ratio",
        takes=_ours,
        suite=FETCH,
    ),
    Scenario(
        *("memory-fetch", "own memory after fetching the image", _memory_fetched, "image", "MiB"),
        takes=_with_memory,
        drops=False,
        suite=FETCH,
    ),
)
