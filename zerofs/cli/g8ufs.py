"""The drop-in mount binary: `g8ufs`, also installed as `0-fs`.

stdout carries one line, ``mount starts``, once the tree can be used; callers wait for it.  Errors are one line
on stderr, with the exit status that says what kind they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from zerofs import __version__
from zerofs.cli.guard import guarded
from zerofs.cli.mount_options import add_options, mount_options, normalise
from zerofs.cli.mounting import run_mount
from zerofs.cli.parser import Parser
from zerofs.mount.options import MountOptions

_EPILOG = """\
examples:
  g8ufs --meta image.flist --cache /var/cache/zerofs /mnt
  g8ufs --reset --backend /var/lib/c1 --cache /var/cache/zerofs --log /var/log/c1.log \\
        --meta image.db --storage-url redis://127.0.0.1:6379 /mnt
  g8ufs --ro --storage-url zdb://127.0.0.1:9900 --cache /var/cache/zerofs --meta image.flist --daemon /mnt

exit status: 0 fine, 2 usage, 3 flist unreadable, 4 store configuration wrong, 5 mount failed,
6 backend or cache unusable, 1 anything else
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drop-in command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = "g8ufs"
    return guarded(
        program, lambda: _run(program, arguments), debug=not {"-debug", "--debug"}.isdisjoint(arguments)
    )


def _run(program: str, arguments: Sequence[str]) -> int:
    options = parse_g8ufs(arguments, program)
    return run_mount(program, options, ["g8ufs", *arguments], announcement="mount starts")


def parse_g8ufs(arguments: Sequence[str], program: str = "g8ufs") -> MountOptions:
    """What the arguments of the drop-in command ask for.  Raises UsageError."""
    parser = Parser(
        prog=program,
        usage=f"{program} [options] MOUNTPOINT",
        description="Mount a flist: the tree is there at once, each chunk is fetched when it is first read.",
        epilog=_EPILOG,
    )
    add_options(parser)
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    return mount_options(parser.parse_args(normalise(arguments)), subtype="g8ufs")
