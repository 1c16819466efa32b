"""The command line of the soak."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zerofs.bench.numbers import above_zero
from zerofs.bench.soak.outcome import Outcome, print_outcome
from zerofs.bench.soak.place import Settings
from zerofs.bench.soak.run import kills, soak
from zerofs.cli.parser import Parser
from zerofs.errors import BackendError, UsageError
from zerofs.interruption import interruptible
from zerofs.mount import mountinfo
from zerofs.mount.options import ENGINES
from zerofs.sizes import parse_size

_DESCRIPTION = """\
Read a mount without a pause while a fault strikes it each second: its stores delay, lose, cut, reset, corrupt, lie and
restart, the disk of its cache is full, its tree is swapped, its process is killed.  Every byte is compared.
The exit status is 0 where no byte was wrong, nothing waited beyond its deadline and no mount was lost.
"""
_EPILOG = """\
examples:
  zerofs bench soak --minutes 20
  zerofs bench soak --minutes 20 --seed 1234 --json
  zerofs bench soak --engine llfuse --minutes 5
  zerofs bench soak --kills 200
"""


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"not a number: {text!r}")
    return int(text)


def build_parser() -> Parser:
    parser = Parser(prog="zerofs bench soak", description=_DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add("--minutes", type=above_zero, default=1.0, help="how long (default: %(default)g)")
    add("--kills", type=_number, metavar="N", help="instead: kill the process behind the mount so often")
    add(
        "--seed", type=_number, help="draw the same tree, reads and faults again (default: another each time)"
    )
    add("--engine", choices=ENGINES, default="auto", help="FUSE engine (default: auto)")
    add("--timeout", type=above_zero, default=5.0, help="of the mount, in seconds (default: %(default)g)")
    add("--size", type=parse_size, default=48 << 20, help="bytes of the tree (default: 48M)")
    add("--cache-size", type=parse_size, default=16 << 20, help="bytes of the cache (default: 16M)")
    add(
        "--readers",
        type=_number,
        default=2,
        help="processes of four threads that read (default: %(default)d)",
    )
    add("--unsupervised", action="store_true", help="without a supervisor, where there could be one")
    add("--workdir", type=Path, default=Path("/var/tmp"), help="a place on a disk (%(default)s)")
    add(
        "--keep",
        action="store_true",
        help="leave the working directory, with the log of the mount, in any case",
    )
    add("--json", action="store_true", help="JSON instead of the tables")
    return parser


def run(argv: Sequence[str]) -> int:
    """Parse, soak, print; the exit status is 1 where something was wrong, late or lost."""
    arguments = build_parser().parse_args(argv)
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    settings = Settings(
        seed=seed,
        engine=arguments.engine,
        timeout=arguments.timeout,
        tree_size=arguments.size,
        cache_size=arguments.cache_size,
        readers=arguments.readers,
        supervised=False if arguments.unsupervised else None,
    )
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with interruptible(), _workplace(arguments) as workplace:
        if arguments.kills is not None:
            outcome = kills(workplace.directory, settings, arguments.kills, _progress())
        else:
            outcome = soak(workplace.directory, settings, arguments.minutes, _progress())
        workplace.keep |= outcome.failed
    _publish(outcome, as_json=arguments.json)
    return int(outcome.failed)


def _publish(outcome: Outcome, *, as_json: bool) -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps(outcome.as_dict(), indent=1))
    else:
        print_outcome(outcome)


@dataclass
class _Workplace:
    directory: Path
    keep: bool


@contextmanager
def _workplace(arguments: argparse.Namespace) -> Iterator[_Workplace]:
    """A directory of its own; removed at the end, but never through a mount that would not go."""
    if not arguments.workdir.is_dir():
        raise BackendError(f"{arguments.workdir} is not a directory", hint="name another with --workdir")
    directory = Path(tempfile.mkdtemp(prefix="zerofs-soak-", dir=arguments.workdir)).resolve()
    workplace = _Workplace(directory, arguments.keep)
    try:
        yield workplace
    finally:
        if workplace.keep:
            print(f"the log of the mount is in {directory}", file=sys.stderr)
        elif not any(each.target.startswith(f"{directory}/") for each in mountinfo.read()):
            shutil.rmtree(directory)


def _progress() -> Callable[[str], None]:
    """A line that replaces itself on a terminal, one in thirty elsewhere."""
    if sys.stderr.isatty():
        return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    said = iter(range(1, 1 << 30))
    return lambda text: print(text, file=sys.stderr, flush=True) if next(said) % 30 == 0 else None
