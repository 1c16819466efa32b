"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zerofs import __version__
from zerofs.bench import host
from zerofs.bench.report import as_dict, print_table
from zerofs.bench.runner import Bench
from zerofs.bench.scenarios import SCENARIOS, Scenario
from zerofs.cli.guard import guarded
from zerofs.cli.parser import Parser
from zerofs.errors import BackendError, UsageError
from zerofs.mount import mountinfo
from zerofs.sizes import parse_size

_COPIES = 5  # the large file itself, in the cache, and in the peers' images
_SPARE = 2 << 30  # bytes for the image and its copies

EPILOG = """\
Cold samples drop the kernel's caches, which takes root and slows the whole machine for a moment.

examples:
  zerofs bench --quick
  zerofs bench --scenario 'seq-*' --size 4G --runs 7
  zerofs bench --json > today.json
"""


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"not a number of runs: {text!r}")
    return int(text)


def build_parser() -> Parser:
    """The options; `--quick` only changes defaults."""
    parser = Parser(
        prog="zerofs bench",
        description="Measure zerofs beside the plain directory, squashfuse, squashfs and erofs.",
        epilog=EPILOG,
    )
    parser.add_argument("--scenario", action="append", metavar="PATTERN", help="only these (see --list)")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--runs", type=_count, help="samples of each (default 5, quick 1)")
    parser.add_argument("--size", type=parse_size, help="bytes of the large file (default 1G, quick 8M)")
    parser.add_argument(
        "--workdir", type=Path, default=Path("/var/tmp"), help="a place on a disk (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small trees, one run: whether it works, not how fast"
    )
    parser.add_argument("--json", action="store_true", help="JSON with every sample instead of the table")
    return parser


def choose(patterns: Sequence[str] | None) -> list[Scenario]:
    """The scenarios whose names match any of the shell patterns; all where there are none."""
    chosen = [
        scenario
        for scenario in SCENARIOS
        if patterns is None or any(fnmatch.fnmatchcase(scenario.name, pattern) for pattern in patterns)
    ]
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


def _progress() -> Callable[[str], None]:
    """A line that replaces itself on a terminal, a line each elsewhere."""
    if not sys.stderr.isatty():
        return lambda text: print(text, file=sys.stderr, flush=True)
    return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _measure(arguments: argparse.Namespace) -> int:
    scenarios = choose(arguments.scenario)
    runs = arguments.runs or (1 if arguments.quick else 5)
    size = arguments.size or (8 << 20 if arguments.quick else 1 << 30)
    report = _progress()
    corpora = {scenario.corpus for scenario in scenarios}
    needed = _COPIES * size + (_SPARE if not arguments.quick else 0)
    with _workplace(arguments.workdir, needed) as workdir:
        bench = Bench(workdir, size=size, quick=arguments.quick, corpora=corpora, report=report)
        with bench:
            results = [result for scenario in scenarios if (result := bench.run(scenario, runs)) is not None]
            report("")
    if arguments.json:
        settings = {"runs": runs, "size_bytes": size, "quick": arguments.quick, "version": __version__}
        print(json.dumps(as_dict(results, bench.origins, bench.missing, host.describe(), settings), indent=1))
    else:
        print_table(results, bench.origins, bench.missing)
    return int(any(row.failure is not None for result in results for row in result.rows))


def _run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    if arguments.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:12} {scenario.title}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is taken down
    return _measure(arguments)


def run(argv: Sequence[str] | None) -> int:
    """Parse, measure, print; the exit status is 1 where a subject failed."""
    given = sys.argv[1:] if argv is None else argv
    return guarded("zerofs bench", lambda: _run(given), debug="--debug" in given)
