"""The `zerofs` command: finds the subcommand, runs it, and turns what went wrong into one line.

Only the module of the chosen subcommand is imported: a mount process must not pay for progress
bars, numpy or the packer, and `zerofs --help` needs none of them, so the summaries stand here.
A subcommand's module has ``configure(parser)`` and ``run(args) -> int``, the exit status; one with a
parser of its own has ``main(argv) -> int``.

Exit statuses are those of :mod:`zerofs.errors`; 130 is an interrupt, 141 a reader that went away.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from zerofs import __version__
from zerofs.cli.guard import guarded
from zerofs.cli.parser import Parser
from zerofs.errors import UsageError


class Command(NamedTuple):
    """One line of the table: where a subcommand lives and what `zerofs --help` says of it."""

    module: str
    summary: str
    own_parser: bool = False  # the module's ``main(argv)`` takes the arguments as they are


COMMANDS = {
    "mount": Command("zerofs.cli.mount", "mount one or several flists", own_parser=True),
    "umount": Command("zerofs.cli.umount", "unmount what `zerofs mount` mounted"),
    "upgrade": Command("zerofs.cli.upgrade", "have a new process serve a mount that is in use"),
    "stats": Command("zerofs.cli.stats", "show what a mount counts, or list all mounts"),
    "top": Command("zerofs.cli.top", "watch what mounts do, live"),
    "pack": Command("zerofs.cli.pack", "make a flist of a directory or a tar, and store its chunks"),
    "unpack": Command("zerofs.cli.unpack", "write the tree of a flist into a directory"),
    "ls": Command("zerofs.cli.ls", "list directories of a flist"),
    "stat": Command("zerofs.cli.stat", "show all that a flist says of a path"),
    "cat": Command("zerofs.cli.cat", "write the bytes of files of a flist to standard output"),
    "info": Command("zerofs.cli.info", "describe a flist: format, counts, sizes, stores"),
    "merge": Command("zerofs.cli.merge", "lay several flists over each other into one"),
    "store": Command(
        "zerofs.cli.store", "copy the chunks of a flist between stores, or prove that they are there"
    ),
    "warmup": Command("zerofs.cli.warmup", "fetch chunks of a flist into a cache, before they are read"),
    "pin": Command("zerofs.cli.pin", "keep the chunks of flists in a cache"),
    "unpin": Command("zerofs.cli.pin", "keep them no longer"),
    "df": Command("zerofs.cli.df", "show what a cache holds, and of which flists"),
    "gc": Command("zerofs.cli.gc", "free what a cache need not hold"),
    "fsck": Command("zerofs.cli.fsck", "prove every chunk of a cache"),
    "profile": Command("zerofs.cli.profile", "show, carry, merge and ship what mounts want first"),
    "completion": Command("zerofs.cli.completion", "print the completions for a shell"),
    "man": Command("zerofs.cli.man", "print the manual page"),
    "bench": Command(
        "zerofs.bench", "measure a mount against plain directories and its peers", own_parser=True
    ),
}

EPILOG = """\
examples:
  zerofs pack --store dir:///srv/chunks ./rootfs rootfs.flist
  zerofs mount rootfs.flist /mnt
  zerofs ls -R rootfs.flist /etc

exit status: 0 fine, 1 failed, 2 usage, 3 flist unreadable, 4 store configuration wrong,
5 mount failed, 6 backend or cache unusable, 130 interrupted

`zerofs COMMAND --help` explains a command.
"""


def build_parser(chosen: Sequence[str] = ()) -> Parser:
    """The whole command line, with the options of the `chosen` subcommands; only these are imported."""
    parser = Parser(
        prog="zerofs", description="Flists: mount them, make them, look into them.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"zerofs {__version__}")
    parser.add_argument("--debug", action="store_true", help="log more, and show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        subparser.add_argument("--debug", action="store_true", help="log more, show an error's traceback")
        if name in chosen:
            importlib.import_module(command.module).configure(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerofs` with `argv` (the process's own by default); returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    run = _help_mount if argv is None and is_helper(sys.argv[0].rpartition("/")[2]) else _dispatch
    return guarded("zerofs", lambda: run(arguments, debug), debug=debug)


def is_helper(name: str) -> bool:
    """Whether a program of this name is what mount(8) calls for a type of file systems."""
    return name.startswith("mount.")


def _help_mount(arguments: list[str], _: bool = False) -> int:
    from zerofs.cli import helper

    return helper.main(arguments)


def _dispatch(arguments: list[str], debug: bool) -> int:
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        if is_from_mount(arguments):
            return _help_mount(arguments)
        raise UsageError(f"no such command: {name}{_suggestion(name)}", hint="zerofs --help lists them")
    command = COMMANDS[name] if name is not None else None
    try:
        if name is not None and command is not None and command.own_parser:
            position = arguments.index(name)
            others = arguments[:position] + arguments[position + 1 :]
            return int(importlib.import_module(command.module).main(others))
        parser = build_parser((name,) if name else ())
        if not arguments:
            parser.print_help()
            return UsageError.exit_code
        args = parser.parse_args(arguments)
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    args.debug = debug
    return int(importlib.import_module(COMMANDS[args.command].module).run(args))


def is_from_mount(arguments: Sequence[str]) -> bool:
    """Whether mount(8) calls, as FLIST MOUNTPOINT -o OPTIONS: it makes paths absolute, so none is a command."""
    return len(arguments) == 4 and arguments[2] == "-o" and arguments[1].startswith("/")


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, n=1)
    return f"; is it {close[0]}?" if close else ""
