"""`zerofs umount`: take a mount down and wait until its process is gone."""

from __future__ import annotations

import argparse
import os
import select
import sys
from pathlib import Path

from zerofs.cli.parser import path
from zerofs.errors import MountError, UsageError
from zerofs.mount import mountinfo
from zerofs.mount.aftermath import clear_below
from zerofs.mount.unmount import server_by_asking, server_of, unmount

EPILOG = """\
examples:
  zerofs umount /mnt
"""
_END_SECONDS = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("targets", metavar="MOUNTPOINT", nargs="+", type=path)


def run(args: argparse.Namespace) -> int:
    """Unmount each target, with what a killed process left below it.  Raises MountError for another mount."""
    for target in args.targets:
        _unmount(mountinfo.locate(target))
    return 0


def _unmount(target: Path) -> None:
    mount = mountinfo.top(target)
    if mount is None:
        raise UsageError(f"nothing is mounted at {target}", hint="see findmnt")
    server = server_of(mount) or server_by_asking(mount)
    if server is None and not mountinfo.is_dead(mount):
        raise MountError(f"{target} is no mount of a flist", hint=f"use umount {target}")
    process = None if server is None else _process(server)
    unmount(target, dead=mountinfo.is_dead(mount))
    if process is None:
        clear_below(mount)
        return
    try:  # it takes the layers below down, too
        if not select.select([process], [], [], _END_SECONDS)[0]:
            print(
                f"zerofs: process {server} goes on: the mount is held by open files or another namespace",
                file=sys.stderr,
            )
    finally:
        os.close(process)


def _process(server: int) -> int | None:
    """The process that serves a mount, to be waited for; None where it has ended."""
    try:
        process = os.pidfd_open(server)
    except ProcessLookupError:
        return None
    if select.select([process], [], [], 0)[0]:  # ended, but nobody has waited for it
        os.close(process)
        return None
    return process
