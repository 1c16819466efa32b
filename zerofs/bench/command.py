"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zerofs.bench import host, page, plot
from zerofs.bench.arguments import Limits, build_parser, choose, choose_starts
from zerofs.bench.coldrunner import ColdBench
from zerofs.bench.coldstart import COLDSTART, STARTS
from zerofs.bench.report import Run, as_dict, markdown, print_table, print_targets
from zerofs.bench.runner import SUBJECTS, Bench, Pace, Report, Result
from zerofs.bench.scenarios import SCENARIOS, Scenario
from zerofs.bench.starts import NAMES, FullPull
from zerofs.bench.targets import START_TARGETS, judge
from zerofs.cli.guard import guarded
from zerofs.errors import BackendError
from zerofs.interruption import ignore_signals, interruptible
from zerofs.mount import mountinfo

_COPIES = 9  # the large file itself, in Redis, in two caches, and in the peers' images
_SPARE = 3 << 30  # bytes for the image and its copies
SOAK = "soak"  # a command line of its own
_LEAST = 4  # rounds with everybody, however long they take


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


def _measure(arguments: argparse.Namespace) -> int:
    if arguments.plot is not None:
        plot.require()
    if arguments.page is not None:
        page.require(arguments.page, _mark(arguments))
    limits, report = Limits.of(arguments), _progress()
    measure = _measure_starts if arguments.suite == COLDSTART else _measure_scenarios
    run = measure(arguments, limits, report)
    _publish(run, arguments)
    return int(bool(run.failures()))


def _measure_scenarios(arguments: argparse.Namespace, limits: Limits, report: Report) -> Run:
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


def _measure_starts(arguments: argparse.Namespace, limits: Limits, report: Report) -> Run:
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
        ignore_signals()
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
    if argv[:1] == [SOAK]:
        from zerofs.bench.soak.command import run as run_soak

        return run_soak(argv[1:])
    arguments = build_parser().parse_args(argv)
    if arguments.list:
        for scenario in SCENARIOS:
            print(f"{scenario.suite:9} {scenario.name:18} {scenario.title}")
        for start in STARTS:
            print(f"{COLDSTART:9} {start.name:18} {start.title}")
        return 0
    with interruptible():
        return _measure(arguments)


def run(argv: Sequence[str] | None) -> int:
    """Parse, measure, print; the exit status is 1 where a subject failed."""
    given = sys.argv[1:] if argv is None else argv
    return guarded("zerofs bench", lambda: _run(given), debug="--debug" in given)
