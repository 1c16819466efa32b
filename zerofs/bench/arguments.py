"""What the command line of the benchmark asks for."""

from __future__ import annotations

import argparse
import fnmatch
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from zerofs import __version__
from zerofs.bench.coldstart import COLDSTART, QUICK, STARTS, Start
from zerofs.bench.numbers import above_zero
from zerofs.bench.scenarios import SCENARIOS, SUITES, Scenario
from zerofs.cli.parser import Parser
from zerofs.errors import UsageError
from zerofs.sizes import parse_size

T = TypeVar("T")

EPILOG = """\
Suites: `peers` is everything in the local cache, beside the peers; `fetch` is what having nothing on the host
costs.  Without one, both.  `soak`, with options of its own, says what a mount survives.
`coldstart` starts containers over emulated links; of its scenarios, only those at 20 ms
and 100 Mbit/s are run unless --scenario names others.  Cold samples drop the kernel's caches, which takes root and
slows the whole machine for a moment.

examples:
  zerofs bench peers --targets
  zerofs bench peers --quick
  zerofs bench peers --scenario 'seq-*' --size 4G --minutes 5
  zerofs bench peers --targets --plot peers.png --json peers.json
  zerofs bench coldstart --targets
  zerofs bench coldstart --scenario 'numpy-*' --scenario 'read-all-5ms-1G' --minutes 20
  zerofs bench soak --help
"""


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"not a number of rounds: {text!r}")
    return int(text)


def build_parser() -> Parser:
    """The options; `--quick` only changes defaults."""
    parser = Parser(
        prog="zerofs bench",
        description="Measure zerofs beside the plain directory, squashfuse, ratarmount, squashfs and erofs.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "suite", nargs="?", choices=(*SUITES, COLDSTART), help="what to measure (default: the first two)"
    )
    parser.add_argument("--scenario", action="append", metavar="PATTERN", help="only these (see --list)")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--runs", type=_count, help="rounds of each where time allows (default 15, quick 1)")
    parser.add_argument("--minutes", type=above_zero, help="time for all of it (default 11, quick 1)")
    parser.add_argument("--size", type=parse_size, help="bytes of the large file (default 256M, quick 8M)")
    parser.add_argument(
        "--workdir", type=Path, default=Path("/var/tmp"), help="a place on a disk (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small trees, one round: whether it works, not how fast"
    )
    parser.add_argument("--targets", action="store_true", help="also the targets: met, or missed by how much")
    parser.add_argument(
        "--json",
        nargs="?",
        type=Path,
        const=Path("-"),
        metavar="FILE",
        help="JSON with every sample, into a file, or instead of the tables",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the ratios as a PNG; takes matplotlib")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the tables into this Markdown page, between its marks"
    )
    return parser


def choose(suite: str | None, patterns: Sequence[str] | None) -> list[Scenario]:
    """The scenarios of a suite whose names match any of the shell patterns; all where there are none."""
    chosen = [
        scenario
        for scenario in SCENARIOS
        if suite in (None, scenario.suite) and (patterns is None or _matches(scenario.name, patterns))
    ]
    return _at_least_one(chosen)


def choose_starts(patterns: Sequence[str] | None, *, quick: bool) -> list[Start]:
    """The cold starts whose names match any of the shell patterns; the usual ones where there are none."""
    if patterns is not None:
        return _at_least_one([start for start in STARTS if _matches(start.name, patterns)])
    return list(QUICK) if quick else [start for start in STARTS if start.usual]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _at_least_one(chosen: list[T]) -> list[T]:
    if not chosen:
        raise UsageError("no scenario of that name", hint="zerofs bench --list names them")
    return chosen


class Limits(NamedTuple):
    """How long, how often, how much."""

    quick: bool
    rounds: int
    minutes: float
    size: int  # bytes of the large file
    deadline: float  # of `time.monotonic`

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Limits:
        quick = arguments.quick
        minutes = arguments.minutes or (1 if quick else 11)
        return cls(
            quick=quick,
            rounds=arguments.runs or (1 if quick else 15),
            minutes=minutes,
            size=arguments.size or (8 << 20 if quick else 256 << 20),
            deadline=time.monotonic() + minutes * 60,
        )

    def settings(self) -> dict[str, object]:
        """For the report."""
        names = {"rounds": self.rounds, "minutes": self.minutes, "size_bytes": self.size, "quick": self.quick}
        return names | {"version": __version__}
