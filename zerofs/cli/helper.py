"""What mount(8) calls for a line of fstab, or ``mount -t fuse.zerofs -o OPTIONS FLIST MOUNTPOINT``.

Linked as ``/sbin/mount.fuse.zerofs`` (or ``mount.zerofs``) the command is the helper itself and is told everything:
``FLIST MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]``.  Without such a link mount(8) takes the helper
``mount.fuse``, which runs ``zerofs FLIST MOUNTPOINT -o OPTIONS``: without a subcommand, with nothing in the environment
that tells where programs are, and without the other words.  Either way it expects what every mount does: a return once
the tree can be used, with a true status, and no words.  So this is `zerofs mount --daemon`, all its options behind
``-o``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zerofs.cli.mount import parse_mount
from zerofs.cli.mount_options import known_options
from zerofs.cli.mounting import run_mount
from zerofs.errors import UsageError
from zerofs.mount.options import MountOptions

_MEANT = "suid,dev"  # by every mount, unless its options say otherwise; mount.fuse says so, mount(8) does not


class Call(NamedTuple):
    """What mount(8) asks for."""

    mount: list[str]  # as arguments of `zerofs mount`
    fake: bool  # do everything but mount


def main(arguments: Sequence[str]) -> int:
    """Mount as mount(8) asks for it; returns the exit status."""
    call = _parse(arguments)
    options = parse_mount(call.mount)
    if call.fake:
        return 0
    return run_mount("zerofs", options, ["mount", *call.mount], announcement="")


def parse_helper(arguments: Sequence[str]) -> MountOptions:
    """What mount(8) asks for.  Raises UsageError."""
    return parse_mount(_parse(arguments).mount)


def _parse(arguments: Sequence[str]) -> Call:
    places: list[str] = []
    lists: list[str] = []
    switches = ""
    left = iter(arguments)
    for argument in left:
        if argument in ("-o", "-t", "-N"):
            value = next(left, None)
            if value is None:
                raise UsageError(f"{argument} of mount(8) without its value")
            if argument == "-N":
                raise UsageError("a mount cannot be made in another namespace", hint="use nsenter --mount")
            lists += [value] if argument == "-o" else []
        elif argument.startswith("-") and len(argument) > 1 and not argument[1:].strip("sfnv"):
            switches += argument[1:]
        elif argument.startswith("-"):
            raise UsageError(f"{argument} is nothing that mount(8) says")
        else:
            places.append(argument)
    if len(places) != 2:
        raise UsageError("mount(8) names a flist and a mount point")
    if "s" in switches:  # sloppy: what nobody knows is no error
        lists = [known_options(text) for text in lists]
    options = [word for text in (_MEANT, *lists) for word in ("-o", text)]
    return Call(["--daemon", *options, "--", *places], fake="f" in switches)
