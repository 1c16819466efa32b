"""`zerofs unpack`: the tree of a flist, written into a directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.cli import options, output
from zerofs.cli.parser import path
from zerofs.interruption import interruptible

if TYPE_CHECKING:
    from zerofs.pack.losses import Count
    from zerofs.pack.unpack import Unpacked

EPILOG = """\
examples:
  zerofs unpack rootfs.flist ./rootfs
  zerofs unpack --storage-url dir:///srv/chunks image.flist ./rootfs

Every chunk is verified.  Owners and devices need root; without it they are counted and warned about.
Nothing is written outside of DIRECTORY, and a run that fails leaves it empty if it was.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_flist(parser)
    parser.add_argument("directory", metavar="DIRECTORY", type=path, help="where to; made if it is missing")
    parser.add_argument("--force", action="store_true", help="write into a directory that is not empty")
    options.add_flist_options(parser)
    options.add_storage_options(parser)
    options.add_jobs(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from zerofs.cli.progress import shown_progress
    from zerofs.pack.unpack import Unpacker

    output.set_up(debug=args.debug)
    with (
        interruptible(),
        options.opened_flist(args) as flist,
        options.opened_contents(args, flist) as contents,
        shown_progress("unpacking", silent=args.json) as progress,
    ):
        done = Unpacker(
            flist.index,
            contents,
            args.directory,
            progress,
            workers=options.jobs(args),
            force=args.force,
        ).run()
    if args.json:
        output.say_json(_as_json(args.directory, done))
    else:
        _show(args.directory, done)
    return 0


def _as_json(directory: Path, done: Unpacked) -> dict[str, object]:
    return {
        "directory": str(directory),
        "entries": output.kinds(done.entries),
        "bytes": done.size,
        "losses": {
            name: {"count": count.number, "examples": [output.text(path) for path in count.examples]}
            for name, count in (("owners", done.owners), ("devices", done.devices))
            if count.number
        },
    }


def _show(directory: Path, done: Unpacked) -> None:
    output.say(f"{directory}: {sum(done.entries.values()):,} names, {output.size(done.size)} in files")
    _warn(done.owners, "owners could not be set, nor their set-user-id bits: only root may")
    _warn(done.devices, "devices could not be made: only root may")


def _warn(count: Count, meaning: str) -> None:
    if count.number:
        output.warn(f"{count.number:,} × {meaning} ({output.examples(count.examples, count.number)})")
