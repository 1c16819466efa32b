"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from zerofs import __version__
from zerofs.bench import coldstart, host, page, plot
from zerofs.bench.coldstart import COLDSTART, STARTS, ColdBench, Start
from zerofs.bench.report import Run, as_dict, markdown, print_table, print_targets
from zerofs.bench.runner import SUBJECTS, Bench, Pace, Report, Result
from zerofs.bench.scenarios import SCENARIOS, SUITES, Scenario
from zerofs.bench.starts import NAMES, FullPull
from zerofs.bench.targets import START_TARGETS, judge
from zerofs.cli.guard import guarded
from zerofs.cli.parser import Parser
from zerofs.errors import BackendError, UsageError
from zerofs.mount import mountinfo
from zerofs.sizes import parse_size

_COPIES = 9  # the large file itself, in Redis, in two caches, and in the peers' images
_SPARE = 3 << 30  # bytes for the image and its copies
_LEAST = 4  # rounds with everybody, however long they take
T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

EPILOG = """\
Suites: `peers` is everything in the local cache, beside the peers; `fetch` is what having nothing on the host
costs.  Without one, both.  `coldstart` starts containers over emulated links; of its scenarios, only those at 20 ms
and 100 Mbit/s are run unless --scenario names others.  Cold samples drop the kernel's caches, which takes root and
slows the whole machine for a moment.

examples:
  zerofs bench peers --targets
  zerofs bench peers --quick
  zerofs bench peers --scenario 'seq-*' --size 4G --minutes 5
  zerofs bench peers --targets --plot peers.png --json peers.json
  zerofs bench coldstart --targets
  zerofs bench coldstart --scenario 'numpy-*' --scenario 'read-all-5ms-1G' --minutes 20
"""


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"not a number of rounds: {text!r}")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 10_000:
        raise UsageError(f"not a number of minutes: {text!r}")
    return minutes


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
    parser.add_argument("--minutes", type=_minutes, help="time for all of it (default 11, quick 1)")
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
    return list(coldstart.QUICK) if quick else [start for start in STARTS if start.usual]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _at_least_one(chosen: list[T]) -> list[T]:
    if not chosen:
        raise UsageError("no scenario of that name", hint="zerofs bench --list names them")
    return chosen


@contextmanager
def _workplace(parent: Path, needed: int) -> Iterator[Path]:
    """A private directory below `parent`; removed at the end, but never through a mount that would not go."""
    if not parent.is_dir():
        raise BackendError(f"{parent} is not a directory", hint="name another with --workdir")
    if shutil.disk_usage(parent).free < needed:
        raise BackendError(
            f"{parent} has not the {needed >> 20:,} MiB that are needed", hint="take a smaller --size"
        )
    directory = Path(tempfile.mkdtemp(prefix="zerofs-bench-", dir=parent))
    try:
        yield directory
    finally:
        prefix = f"{directory.resolve()}/"
        if not any(mount.target.startswith(prefix) for mount in mountinfo.read()):
            shutil.rmtree(directory)


def _progress() -> Report:
    """A line that replaces itself on a terminal, a line each elsewhere."""
    if not sys.stderr.isatty():
        return lambda text: print(text, file=sys.stderr, flush=True) if text else None
    return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupted(number: int, _: object) -> NoReturn:
    """The first signal ends the run; what is taken down then is not disturbed by a second."""
    _ignore_signals()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _run_scenarios(bench: Bench, scenarios: Sequence[Scenario], pace: Pace, deadline: float) -> list[Result]:
    """The results, in the order of `scenarios`.

    Those whose samples are short go first: the time that they leave of their share is the others'.  They
    are also those for which a corpus stays mounted.
    """
    results: dict[str, Result] = {}
    order = sorted(scenarios, key=lambda scenario: (scenario.begin is None, scenario.drops, scenario.corpus))
    for done, scenario in enumerate(order):
        seconds = (deadline - time.monotonic()) / (len(order) - done)
        result = bench.run(scenario, pace._replace(seconds=seconds))
        if result is not None:
            results[scenario.name] = result
    return [results[scenario.name] for scenario in scenarios if scenario.name in results]


class _Limits(NamedTuple):
    """How long, how often, how much."""

    quick: bool
    rounds: int
    minutes: float
    size: int  # bytes of the large file
    deadline: float  # of `time.monotonic`

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> _Limits:
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


def _measure(arguments: argparse.Namespace) -> int:
    if arguments.plot is not None:
        plot.require()
    if arguments.page is not None:
        page.require(arguments.page, _mark(arguments))
    limits, report = _Limits.of(arguments), _progress()
    measure = _measure_starts if arguments.suite == COLDSTART else _measure_scenarios
    run = measure(arguments, limits, report)
    _publish(run, arguments)
    return int(bool(run.failures()))


def _measure_scenarios(arguments: argparse.Namespace, limits: _Limits, report: Report) -> Run:
    scenarios = choose(arguments.suite, arguments.scenario)
    needed = _COPIES * limits.size + (_SPARE if not limits.quick else 0)
    pace = Pace(limits.rounds, min(limits.rounds, _LEAST), 0)
    with (
        _workplace(arguments.workdir, needed) as workdir,
        Bench(workdir, size=limits.size, quick=limits.quick, scenarios=scenarios, report=report) as bench,
        _left_alone(report),
    ):
        results = _run_scenarios(bench, scenarios, pace, limits.deadline)
    present = {name for result in results for name in result.rows}
    return Run(
        results=results,
        verdicts=judge(results),
        names=[kind.name for kind in SUBJECTS if kind.name in present],
        origins=bench.origins,
        missing=bench.missing,
        machine=host.describe(),
        settings=limits.settings(),
    )


def _measure_starts(arguments: argparse.Namespace, limits: _Limits, report: Report) -> Run:
    starts = choose_starts(arguments.scenario, quick=limits.quick)
    needed = _SPARE if not limits.quick else 0
    with (
        _workplace(arguments.workdir, needed) as workdir,
        ColdBench(workdir, quick=limits.quick, starts=starts, report=report) as bench,
        _left_alone(report),
    ):
        results = bench.run(Pace(limits.rounds, 1, limits.deadline - time.monotonic()))
    present = {name for result in results for name in result.rows}
    return Run(
        results=results,
        verdicts=judge(results, START_TARGETS),
        names=[name for name in NAMES if name in present],
        origins=bench.origins,
        missing=bench.missing,
        machine=host.describe(),
        settings=limits.settings(),
        base=FullPull.name,
        base_title="the full pull",
    )


@contextmanager
def _left_alone(report: Report) -> Iterator[None]:
    """Around the measuring: whatever ends it, what follows is not disturbed by a signal."""
    try:
        yield
    finally:
        _ignore_signals()
        report("")


def _mark(arguments: argparse.Namespace) -> str:
    """Which place of a page its tables go to."""
    return COLDSTART if arguments.suite == COLDSTART else ""


def _publish(run: Run, arguments: argparse.Namespace) -> None:
    if arguments.plot is not None:
        if arguments.suite == COLDSTART:
            plot.draw_starts(run.results, arguments.plot)
        else:
            plot.draw(run.results, run.names, arguments.plot)
    if arguments.page is not None:
        page.put(arguments.page, markdown(run), _mark(arguments))
    if arguments.json is not None:
        text = json.dumps(as_dict(run), indent=1)
        if str(arguments.json) == "-":
            print(text)
            return
        arguments.json.write_text(text + "\n")
    print_table(run)
    if arguments.targets:
        print_targets(run)


def _run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    if arguments.list:
        for scenario in SCENARIOS:
            print(f"{scenario.suite:9} {scenario.name:18} {scenario.title}")
        for start in STARTS:
            print(f"{COLDSTART:9} {start.name:18} {start.title}")
        return 0
    for number in _SIGNALS:
        signal.signal(number, _interrupted)
    return _measure(arguments)


def run(argv: Sequence[str] | None) -> int:
    """Parse, measure, print; the exit status is 1 where a subject failed."""
    given = sys.argv[1:] if argv is None else argv
    return guarded("zerofs bench", lambda: _run(given), debug="--debug" in given)
