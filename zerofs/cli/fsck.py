"""`zerofs fsck`: prove every chunk of a cache."""

from __future__ import annotations

import argparse

from zerofs.cli import options, output
from zerofs.interruption import interruptible

EPILOG = """\
examples:
  zerofs fsck --cache /var/cache/zerofs              read all of it
  zerofs fsck --cache /var/cache/zerofs --repair     and drop what is damaged: it is fetched when it is read

Every entry is checked against its checksum, and against the cryptographic hash that is its name.  Mounts may use the
cache meanwhile.  Exit status: 0 where all is sound or was repaired, 1 where something is damaged.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_cache(parser)
    parser.add_argument("--repair", action="store_true", help="drop what is damaged")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from zerofs.cache.check import check
    from zerofs.cli.progress import shown_progress

    output.set_up(debug=args.debug)
    with (
        interruptible(),
        options.existing_cache(args.cache) as cache,
        shown_progress("checking", silent=args.json, unit="chunks") as progress,
    ):
        before = cache.stats()
        progress.expect(files=before.entries, size=before.used)
        found = check(cache, repair=args.repair, advance=lambda size: progress.advance(files=1, size=size))
        replaced = cache.stats().replaced
    damaged = len(found.damaged)
    if args.json:
        output.say_json(
            {
                "entries": found.entries,
                "bytes": found.size,
                "unverifiable": found.unverifiable,
                "damaged": [name.hex() for name in found.damaged],
                "repaired": damaged if args.repair else 0,
                "replaced": replaced,
            }
        )
    else:
        for name in found.damaged:
            output.say(f"{'dropped' if args.repair else 'damaged'}: {name.hex()}")
        output.say(f"{found.entries:,} chunks, {output.size(found.size)}: {damaged:,} damaged")
    return 1 if (damaged and not args.repair) or replaced else 0
