"""`zerofs top`: what mounts do, live: a page that is drawn again and again, or a line of JSON each time."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from zerofs.cli import figures, options, output
from zerofs.cli.change import Look
from zerofs.cli.output import told
from zerofs.cli.parser import path
from zerofs.cli.screen import Screen
from zerofs.errors import MountError, UsageError
from zerofs.interruption import interruptible
from zerofs.mount import inquiry

EPILOG = """\
examples:
  zerofs top                                        all mounts of flists, a line each
  zerofs top /mnt --interval 0.5                    all about the one at /mnt
  zerofs top --json --count 10 /mnt | jq .rates.reads.answered

Rates and latencies are those since the page before; the first shows those since the mount began.
Keys: q ends it, any other draws the page at once.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("target", metavar="MOUNTPOINT", nargs="?", type=path)
    parser.add_argument(
        "--interval",
        type=options.positive_number,
        default=2.0,
        metavar="SECONDS",
        help="time between two pages (default 2)",
    )
    parser.add_argument("--count", type=options.positive_integer, metavar="N", help="end after N pages")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each mount each time")


def run(args: argparse.Namespace) -> int:
    """Watch one mount, or all.  Raises MountError or UsageError where the one cannot be asked, or ends."""
    output.set_up(debug=args.debug)
    looks = _Looks(args.target)
    rounds = iter(range(args.count)) if args.count else itertools.count()
    if args.json:
        with interruptible():
            return _print_lines(looks, rounds, args.interval)
    if not sys.stdout.isatty():
        raise UsageError(
            "zerofs top needs a terminal", hint="--json prints lines, zerofs stats prints the figures once"
        )
    seen = looks.take()  # what is wrong from the start is said without a page
    with Screen() as screen:
        for number in rounds:
            if number:
                seen = looks.take()
            screen.show(_page(seen, args))
            if screen.wait(args.interval).startswith("q"):
                break
    return 0


class _Looks:
    """Looks at one mount, or at all where there is no `target`, and remembers the look before."""

    def __init__(self, target: Path | None) -> None:
        self._target = target
        self._before: dict[int, inquiry.Document] = {}  # by process

    def take(self) -> list[Look]:
        """What there is to see now.  Raises ZerofsError where the one mount is gone, or never answered."""
        answers = inquiry.everything() if self._target is None else [self._ask(self._target)]
        looks = [Look(answer, self._before.get(answer.mount.process)) for answer in answers]
        self._before = {
            look.answer.mount.process: document
            for look in looks
            if (document := look.answer.document or look.before) is not None
        }
        return looks

    def _ask(self, target: Path) -> inquiry.Answer:
        mount = inquiry.find(target)
        try:
            return inquiry.Answer(mount, inquiry.ask(mount))
        except MountError as error:
            if mount.process not in self._before:
                raise
            return inquiry.Answer(mount, None, str(error))  # a live swap keeps it busy, perhaps


def _page(looks: list[Look], args: argparse.Namespace) -> Iterator[str]:
    yield f"zerofs top  {time.strftime('%H:%M:%S')}  every {args.interval:g} s  (q ends it)"
    yield ""
    if args.target is None:
        yield from figures.overview(looks) if looks else ["no flist is mounted"]
        return
    for look in looks:
        with figures.understood(look.answer.mount.target):
            change = look.change
        yield from [told(look.answer.problem)] if change is None else figures.page(change)


def _print_lines(looks: _Looks, rounds: Iterator[int], interval: float) -> int:
    for number in rounds:
        if number:
            time.sleep(interval)
        for look in looks.take():
            with figures.understood(look.answer.mount.target):
                change = look.change
                rates = {} if change is None else {"seconds": change.seconds, "rates": change.as_dict()}
            output.say_json({**look.as_dict(), **rates})
        sys.stdout.flush()
    return 0
