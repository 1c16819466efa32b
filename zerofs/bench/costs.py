"""What reliability costs: the same work with and without, one sample of the ratio of both.

Role: three scenarios of `scenarios`.  They take the subject `Zerofs`, and mount it in ways of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from zerofs.bench import host
from zerofs.bench.ours import Zerofs
from zerofs.bench.subjects import Subject
from zerofs.bench.unverified import CHECKED, UNCHECKED
from zerofs.bench.work import Load

_PRESSURE = 4  # times the cache the large file is
_SMALLEST = 4 << 20  # bytes of a cache
_TURNS = (CHECKED, UNCHECKED, UNCHECKED, CHECKED, CHECKED, UNCHECKED)  # of which the fastest count


def eviction(subject: Subject, load: Load) -> float:
    """How many times the time of one that holds the large file a cache of a quarter of it takes to fetch it through."""
    assert isinstance(subject, Zerofs)
    pressed = _fetched(subject, load, max(load.large_size // _PRESSURE, _SMALLEST))
    return pressed / _fetched(subject, load, 2 * load.large_size + _SMALLEST)


def _fetched(subject: Zerofs, load: Load, cache_size: int) -> float:
    subject.forget()
    host.drop_caches()
    subject.mount_bounded(cache_size)
    try:
        load.rehearse()
        return load.sequential(subject.tree)
    finally:
        subject.unmount()
        subject.forget()


def verification(subject: Subject, load: Load) -> float:
    """How many times the time of a new mount that does not check the cached large file one takes that does.

    The cache's file is in memory.
    """
    return _checked_against_unchecked(subject, load, prepare=lambda: None)


def verification_cold(subject: Subject, load: Load) -> float:
    """The same from the disk."""
    return _checked_against_unchecked(subject, load, prepare=host.drop_caches)


def _checked_against_unchecked(subject: Subject, load: Load, prepare: Callable[[], None]) -> float:
    assert isinstance(subject, Zerofs)
    subject.fill()
    seconds: dict[str, list[float]] = {CHECKED: [], UNCHECKED: []}
    for checks in _TURNS:
        prepare()
        seconds[checks].append(_read(subject, load, checks))
    return min(seconds[CHECKED]) / min(seconds[UNCHECKED])


def _read(subject: Zerofs, load: Load, checks: str) -> float:
    words = (checks, subject.cache, subject.flist, subject.target)
    subject.start(sys.executable, "-m", "zerofs.bench.unverified", *words)
    try:
        load.rehearse()
        return load.sequential(subject.tree)
    finally:
        subject.unmount()
