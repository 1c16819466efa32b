"""`zerofs mount`: the options of the drop-in command, with the flists as plain arguments if one likes."""

from __future__ import annotations

from collections.abc import Sequence

from zerofs.cli.mount_options import add_options, mount_options, normalise
from zerofs.cli.mounting import run_mount
from zerofs.cli.parser import Parser, given
from zerofs.mount.options import MountOptions

_EPILOG = """\
examples:
  zerofs mount image.flist /mnt                     read-write, changes in memory
  zerofs mount --ro image.flist /mnt                the flist itself
  zerofs mount base.flist app.flist /mnt            two flists, the last on top
  zerofs mount --backend /var/lib/c1 image.flist /mnt   changes kept in /var/lib/c1
  zerofs mount -d --storage-url redis://127.0.0.1:6379 image.flist /mnt
  mount -t fuse.zerofs -o ro,storage-url=redis://127.0.0.1:6379 image.flist /mnt
"""


def main(arguments: Sequence[str]) -> int:
    """Run `zerofs mount`; returns the exit status."""
    options = parse_mount(arguments)
    return run_mount("zerofs", options, ["mount", *arguments], announcement=f"mounted at {options.target}")


def parse_mount(arguments: Sequence[str]) -> MountOptions:
    """What the arguments of `zerofs mount` ask for.  Raises UsageError."""
    parser = Parser(
        prog="zerofs mount",
        usage="zerofs mount [options] [FLIST…] MOUNTPOINT",
        description="Mount flists: the tree is there at once, each chunk is fetched when it is first read.",
        epilog=_EPILOG,
    )
    add_options(parser)
    parser.add_argument(
        "flists",
        metavar="FLIST",
        nargs="*",
        type=given,
        default=[],
        help="flists, the last on top; as --meta",
    )
    args = parser.parse_args(normalise(arguments))
    places = [args.target, *args.flists]  # the last is the mount point
    args.meta += places[:-1]
    args.target = places[-1]
    return mount_options(args, subtype="zerofs")
