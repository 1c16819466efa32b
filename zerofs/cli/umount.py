"""`zerofs umount`: take a mount down and wait until its process is gone."""

from __future__ import annotations

import argparse
import os
import select
from pathlib import Path

from zerofs.errors import MountError, UsageError
from zerofs.mount import mountinfo
from zerofs.mount.unmount import server_of, unmount

EPILOG = """\
examples:
  zerofs umount /mnt
"""
_END_SECONDS = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("targets", metavar="MOUNTPOINT", nargs="+", type=Path)


def run(args: argparse.Namespace) -> int:
    """Unmount each target.  Raises MountError for one that is no mount of a flist."""
    for target in args.targets:
        _unmount(mountinfo.locate(target))
    return 0


def _unmount(target: Path) -> None:
    mount = mountinfo.top(target)
    if mount is None:
        raise UsageError(f"nothing is mounted at {target}", hint="see findmnt")
    server = server_of(mount)
    if server is None and not mountinfo.is_dead(mount):
        raise MountError(f"{target} is no mount of a flist", hint=f"use umount {target}")
    process = None if server is None else _process(server)
    unmount(target)
    if process is not None:
        # it takes the layers below down, too
        select.select([process], [], [], _END_SECONDS)
        os.close(process)


def _process(server: int) -> int | None:
    try:
        return os.pidfd_open(server)
    except ProcessLookupError:
        return None
