"""`zerofs upgrade`: have the program that is on disk now serve a mount that is in use."""

from __future__ import annotations

import argparse
import time

from zerofs.cli import options, output
from zerofs.cli.parser import path
from zerofs.mount import inquiry

EPILOG = """\
examples:
  zerofs upgrade /mnt
  zerofs upgrade --json /mnt | jq .server

The mount must have been made with --supervised.  Readers see a pause of some milliseconds.  Where the new
process cannot take over, the old one goes on serving, and the exit status is 5.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("target", metavar="MOUNTPOINT", type=path)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Replace the process behind a mount.  Raises MountError where the old one has to go on."""
    output.set_up(debug=args.debug)
    mount = inquiry.find(args.target)
    began = time.monotonic()
    document = inquiry.upgrade(mount)
    seconds = time.monotonic() - began
    if args.json:
        output.say_json(
            {
                "mountpoint": mount.target,
                "process": mount.process,
                "server": document["process"],
                "takeovers": document["takeovers"],
                "seconds": round(seconds, 3),
            }
        )
    else:
        output.say(f"{mount.target}: process {document['process']} serves it now")
    return 0
