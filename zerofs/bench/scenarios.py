"""What is measured: a scenario takes one sample of one subject; how often is the runner's business.

*Cold* means unmounted, the kernel's caches dropped, mounted again; the cache of what was fetched is full, for
that is the state of a host that starts its second container.  *Fetch* is cold with that cache empty.  *Warm*
is the same work once more on the same mount.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from zerofs.bench import host, work
from zerofs.bench.subjects import Subject, Zerofs

Work = Callable[..., None]


class Sample(Protocol):
    """Takes one sample; leaves nothing mounted."""

    def __call__(self, subject: Subject) -> float: ...


class Scenario(NamedTuple):
    """A row of the table."""

    name: str
    title: str
    corpus: str  # "image" or "file"
    unit: str  # "s" or "MiB"; less is better in both
    sample: Sample
    takes: Callable[[type[Subject]], bool] = lambda _: True
    cold: bool = True  # needs to drop the kernel's caches


def _timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def _after_drop(subject: Subject, do: Work) -> float:
    host.drop_caches()
    root = subject.mount()
    try:
        return _timed(lambda: do(root))
    finally:
        subject.unmount()


def _cold(do: Work) -> Sample:
    def sample(subject: Subject) -> float:
        subject.fill()
        return _after_drop(subject, do)

    return sample


def _warm(do: Work) -> Sample:
    def sample(subject: Subject) -> float:
        subject.fill()
        root = subject.mount()
        try:
            do(root)
            return _timed(lambda: do(root))
        finally:
            subject.unmount()

    return sample


def _fetch(do: Work) -> Sample:
    def sample(subject: Subject) -> float:
        subject.forget()
        return _after_drop(subject, do)

    return sample


def _mount_time(subject: Subject) -> float:
    """Seconds from exec until the tree can be used, for zerofs with its read-write layer."""
    try:
        return _timed(subject.mount_union if isinstance(subject, Zerofs) else subject.mount)
    finally:
        subject.unmount()


def _first_mount(subject: Subject) -> float:
    """Of a flist that this host has never seen."""
    subject.forget()
    host.drop_caches()
    return _mount_time(subject)


def _next_mount(subject: Subject) -> float:
    """With the index compiled, and all that mounting reads in the page cache."""
    subject.mount()
    subject.unmount()
    return _mount_time(subject)


def _memory(subject: Subject) -> float:
    """MiB of the server's own memory once the whole image has been read, all of it fetched."""
    subject.forget()
    root = subject.mount()
    try:
        work.read_all(root)
        return host.own_memory(subject.server())
    finally:
        subject.unmount()


def _is_mounted_by_somebody(subject: type[Subject]) -> bool:
    return subject is not Subject


def _is_served(subject: type[Subject]) -> bool:
    return subject.serves


SCENARIOS = (
    Scenario("mount-first", "first mount, cold", "image", "s", _first_mount, _is_mounted_by_somebody),
    Scenario(
        "mount-next", "mount again, warm", "image", "s", _next_mount, _is_mounted_by_somebody, cold=False
    ),
    Scenario("walk-cold", "find -ls, cold", "image", "s", _cold(work.walk)),
    Scenario("walk-warm", "find -ls, warm", "image", "s", _warm(work.walk), cold=False),
    Scenario("image-cold", "read every file, cold", "image", "s", _cold(work.read_all)),
    Scenario("image-fetch", "read every file, fetched from Redis", "image", "s", _fetch(work.read_all)),
    Scenario("seq-cold", "read the large file, cold", "file", "s", _cold(work.read_large)),
    Scenario("seq-warm", "read the large file, warm", "file", "s", _warm(work.read_large), cold=False),
    Scenario("seq-fetch", "read the large file, fetched from Redis", "file", "s", _fetch(work.read_large)),
    Scenario("random-cold", "4 KiB at random, cold", "file", "s", _cold(work.read_pages)),
    Scenario("random-warm", "4 KiB at random, warm", "file", "s", _warm(work.read_pages), cold=False),
    Scenario("memory", "own memory after reading the image", "image", "MiB", _memory, _is_served, cold=False),
)
