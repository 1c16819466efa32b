"""What is promised of zerofs, held against a run.

A target compares zerofs on the fast engine, or for a cold start one way to start, with another column, scenario by
scenario; the comparison is the median of the ratios of the rounds.  Where the bound lies between the quartiles the
verdict may fall the other way next time, and says so.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any, NamedTuple

from zerofs.bench.ours import DoNothing, Zerofs, ZerofsLlfuse
from zerofs.bench.peers import Ratarmount, Squashfuse
from zerofs.bench.runner import Result
from zerofs.bench.samples import Spread
from zerofs.bench.starts import FullPull, Heuristics, Lazy, Profile, Warm, WarmOff
from zerofs.bench.subjects import Plain
from zerofs.bench.wire import SMALL_CHUNKS

SUBJECT = Zerofs.name


class Target(NamedTuple):
    """One promise.  `base` is whom zerofs is compared with; none for a scenario that is a ratio itself."""

    title: str
    patterns: tuple[str, ...]  # of scenario names
    base: str | None
    bound: float
    speed: bool = False  # the bound is the least speed, not the most time
    sweep: bool = False  # one verdict for all of its scenarios
    subject: str = SUBJECT
    detail: str | None = None  # what is compared, where it is not the time


class Verdict(NamedTuple):
    """How far a target is met in one scenario, or, for a sweep, in the worst one."""

    target: Target
    scenario: str
    measured: Spread
    behind: tuple[str, ...] = ()  # of a sweep: the scenarios that miss
    held: int = 1  # of how many scenarios

    @property
    def distance(self) -> float:
        """How far the median is beyond the bound, as a fraction of it; negative where it is met."""
        quotient = self.measured.median / self.target.bound
        return 1 - quotient if self.target.speed else quotient - 1

    @property
    def met(self) -> bool:
        return self.distance <= 0

    @property
    def certain(self) -> bool:
        """Whether the quartiles lie on one side of the bound."""
        return (
            not self.measured.low <= self.target.bound <= self.measured.high
            or self.measured.low == self.target.bound
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.target.title,
            "scenario": self.scenario,
            "subject": self.target.subject,
            "base": self.target.base,
            "detail": self.target.detail,
            "bound": round(self.target.bound, 6),
            "speed": self.target.speed,
            "measured": self.measured.as_dict(),
            "met": self.met,
            "missed_by": round(max(self.distance, 0.0), 6),
            "certain": self.certain,
            "scenarios": self.held,
            "scenarios_behind": list(self.behind),
        }


_PLAIN, _FLOOR = Plain.name, DoNothing.name
TARGETS = (
    Target("walk, cold", ("walk-cold",), _PLAIN, 1.0),
    Target("walk, warm", ("walk-warm",), _PLAIN, 1.0),
    Target("stat storm, warm", ("stat-*",), _PLAIN, 1.1),
    Target("negative lookups, warm", ("miss-*",), _PLAIN, 1.1),
    Target("sequential read, kernel-cold", ("seq-kernel-*",), _FLOOR, 0.9, speed=True),
    Target("sequential read, cold", ("seq-cold-*",), _PLAIN, 1.0, speed=True),
    Target("sequential read, page cache warm", ("seq-warm-*",), _PLAIN, 0.9, speed=True),
    Target("random 4 KiB, cold", ("random-cold",), _PLAIN, 1.0),
    Target("all small files, cold", ("files-cold",), _PLAIN, 1.0),
    Target("all small files, warm", ("files-warm",), _PLAIN, 1.6),
    *(
        Target(f"ahead of {base}", ("*",), base, 1.0, sweep=True)
        for base in (Squashfuse.name, Ratarmount.name)
    ),
    Target("ahead of the llfuse engine", ("*",), ZerofsLlfuse.name, 1.0, sweep=True),
    Target("twice the llfuse engine on walks", ("walk-*",), ZerofsLlfuse.name, 2.0, speed=True),
    Target("8 readers no slower in total than one", ("readers-gain",), None, 1.0),
    Target("no reader starves", ("readers-uneven",), None, 2.0),
    Target("fetching at 80 % of redis-benchmark", ("wire-large",), None, 1.25),
    Target("eviction at most 15 % of fetching", ("evict",), None, 1 / 0.85),
    Target("checksums at most 3 % of reading", ("verify", "verify-cold"), None, 1 / 0.97),
    Target("20,000 small chunks a second into the cache", ("wire-small",), None, SMALL_CHUNKS / 20_000),
    Target("a million entries compiled in 10 s", ("million-compile",), None, 10.0),
    Target("in 400 MiB", ("million-peak",), None, 400.0),
    Target("mapped in 50 ms", ("million-map",), None, 0.05),
    Target("served in 60 MiB", ("million-memory",), None, 60.0),
)


_HEURISTICS, _PROFILE, _COMPARED = Heuristics.name, Profile.name, "numpy-20ms-100M"
START_TARGETS = (
    Target("a tenth of the full pull", (_COMPARED,), FullPull.name, 0.1, subject=_PROFILE),
    Target("half of no prefetch", (_COMPARED,), Lazy.name, 0.5, subject=_PROFILE),
    Target(
        "near what the chunks alone take",
        *((_COMPARED,), None, 1.5),
        subject=_PROFILE,
        detail="over_floor",
    ),
    *(
        Target(f"{detail} of the replay", ("*",), None, bound, True, True, _PROFILE, detail)
        for detail, bound in (("recall", 0.95), ("precision", 0.9))
    ),
    Target("half of the waits", ("*",), Lazy.name, 0.5, sweep=True, subject=_HEURISTICS, detail="waits"),
    Target("no slower with prefetch", ("*",), WarmOff.name, 1.02, subject=Warm.name, detail="again"),
)


def judge(results: Sequence[Result], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """The verdicts on all targets that these results say something about."""
    verdicts: list[Verdict] = []
    for target in targets:
        found = [
            Verdict(target, result.scenario.name, measured)
            for result in results
            if any(fnmatch.fnmatchcase(result.scenario.name, pattern) for pattern in target.patterns)
            and (measured := _measured(target, result)) is not None
        ]
        if target.sweep and found:
            behind = tuple(verdict.scenario for verdict in found if not verdict.met)
            worst = max(found, key=lambda verdict: verdict.distance)
            verdicts.append(worst._replace(behind=behind, held=len(found)))
        else:
            verdicts.extend(found)
    return verdicts


def _measured(target: Target, result: Result) -> Spread | None:
    if target.base is None:
        row = result.rows.get(target.subject)
        return None if row is None else row.of(target.detail)
    compared = result.ratio(target.subject, target.base, target.detail)
    return compared.inverse() if compared is not None and target.speed else compared
