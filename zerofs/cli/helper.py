"""What mount(8) calls for a line of fstab, or ``mount -t fuse.zerofs -o OPTIONS FLIST MOUNTPOINT``.

mount(8) hands the type ``fuse.zerofs`` to its helper ``mount.fuse``, which runs ``zerofs FLIST MOUNTPOINT -o
OPTIONS``: without a subcommand, and with nothing in the environment that tells where programs are.  It expects what
every mount does: a return once the tree can be used, with a true status, and no words.  So this is
`zerofs mount --daemon`, all its options behind ``-o``.
"""

from __future__ import annotations

from collections.abc import Sequence

from zerofs.cli.mount import parse_mount
from zerofs.cli.mounting import run_mount
from zerofs.mount.options import MountOptions


def main(arguments: Sequence[str]) -> int:
    """Mount as mount(8) asks for it; returns the exit status."""
    again = ["mount", *_as_mount(arguments)]
    return run_mount("zerofs", parse_helper(arguments), again, announcement="")


def parse_helper(arguments: Sequence[str]) -> MountOptions:
    """What mount(8) asks for.  Raises UsageError."""
    return parse_mount(_as_mount(arguments))


def _as_mount(arguments: Sequence[str]) -> list[str]:
    source, target, _, options = arguments
    return ["--daemon", "-o", options, "--", source, target]
