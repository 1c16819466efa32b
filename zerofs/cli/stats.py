"""`zerofs stats`: what a mount counts, asked of the process that serves it; without a mount point, all of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from zerofs.cli import figures, output
from zerofs.cli.change import Change, Look
from zerofs.cli.parser import path
from zerofs.mount import inquiry

EPILOG = """\
examples:
  zerofs stats                                      all mounts of flists, a line each
  zerofs stats /mnt                                 all about the one at /mnt
  zerofs stats --json /mnt | jq .fetch.latency.p99
  zerofs stats --prometheus > zerofs.prom.new && mv zerofs.prom.new /var/lib/node_exporter/zerofs.prom

Rates are those since the mount began; `zerofs top` shows what happens now.  docs/commands.md
explains every counter.  A mount is asked as the user who made it, or as root.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("target", metavar="MOUNTPOINT", nargs="?", type=path)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the result as JSON")
    form.add_argument("--prometheus", action="store_true", help="print it as metrics for Prometheus")


def run(args: argparse.Namespace) -> int:
    """Print one mount, or all.  Raises MountError where the one cannot be asked."""
    output.set_up(debug=args.debug)
    if args.prometheus:
        return _expose(args.target)
    if args.target is None:
        return _all(json=args.json)
    mount = inquiry.find(args.target)
    document = inquiry.ask(mount)
    if args.json:
        output.say_json(document)
    else:
        with figures.understood(mount.target):
            change = Change(None, document)
        for line in figures.page(change):
            output.say(line)
    return 0


def _expose(target: Path | None) -> int:
    from zerofs.cli.exposition import exposition

    inquiry.sweep()
    if target is None:
        # those of others may fare well: nothing is said of them, as "down" would raise an alarm
        answers = [answer for answer in inquiry.everything() if inquiry.may_ask(answer.mount)]
    else:
        mount = inquiry.find(target)
        answers = [inquiry.Answer(mount, inquiry.ask(mount))]
    for line in exposition([Look(answer) for answer in answers]):
        output.say(line)
    return 0


def _all(*, json: bool) -> int:
    inquiry.sweep()
    looks = [Look(answer) for answer in inquiry.everything()]
    if json:
        output.say_json([look.as_dict() for look in looks])
    elif not looks:
        output.say("no flist is mounted")
    else:
        for line in figures.overview(looks):
            output.say(line)
    return 0
