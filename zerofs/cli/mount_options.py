"""The options of a mount, shared by the drop-in command and `zerofs mount`, and how callers spell them.

Container hosts write one dash or two (``-meta x``, ``--meta x``, ``--meta=x``), as the ancestor's option parser
allowed; mount(8) and fstab write everything behind ``-o``, where a value that holds commas stands in quotes.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from zerofs.cli.parser import given, path
from zerofs.errors import UsageError
from zerofs.mount.options import DEFAULT_BACKEND, DEFAULT_TIMEOUT, ENGINES, PREFETCH, MountOptions
from zerofs.sizes import parse_size
from zerofs.store.given import STORAGE_VARIABLE

_SWITCHES = frozenset(
    ("ro", "reset", "daemon", "debug", "supervised", "allow-unverified", "timings", "version", "help")
)
_VALUES = frozenset(
    [
        "meta",
        "backend",
        "cache",
        "storage-url",
        "local-router",
        "log",
        "pid",
        "engine",
        "prefetch",
        "prefetch-rate",
        "timeout",
        "cache-size",
        "cache-free",
        "rw-size",
        "max-flist-size",
    ]
)
_OPTIONAL_VALUES = {"complete": "10M"}  # what the option means alone
_KERNEL_OPTIONS = frozenset(
    [
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "allow_other",
        "default_permissions",
    ]
)
_IN_FORCE_ANYWAY = frozenset(["defaults", "rw", "async", "relatime", "diratime"])
_FSTAB_OPTIONS = frozenset(
    ["auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev"]
)
_COMMA = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')  # outside of quotes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a mount, and MOUNTPOINT."""
    add = parser.add_argument
    add(
        "--meta",
        metavar="FLIST",
        type=given,
        action="append",
        default=[],
        help="flist: a file, its unpacked directory or a URL; may appear many times, the last on top",
    )
    add(
        "--backend",
        metavar="DIR",
        type=path,
        help="working directory that keeps the read-write layer "
        f"(default: {DEFAULT_BACKEND}, with the read-write layer in memory)",
    )
    add(
        "--cache",
        metavar="DIR",
        type=path,
        help="cache directory, shared by many mounts (default: BACKEND/ca)",
    )
    add(
        "--storage-url",
        metavar="URL",
        help=f"store of last resort, or @FILE that holds its URL; environment: {STORAGE_VARIABLE}",
    )
    add("--local-router", metavar="FILE", type=path, help="router.yaml that goes before those of the flists")
    add("--ro", action="store_true", help="read-only: the flist itself, without a read-write layer")
    add("--reset", action="store_true", help="empty the backend before mounting")
    add("--log", metavar="FILE", type=path, help="log there instead of stderr")
    add("--daemon", "-d", action="store_true", help="go to the background once the mount can be used")
    add("--pid", metavar="FILE", type=path, dest="pid_file", help="write the process id of the daemon there")
    add("--debug", action="store_true", help="log more, and show tracebacks")
    add("--engine", choices=ENGINES, default="auto", help="FUSE engine (default: auto)")
    add(
        "--prefetch",
        choices=PREFETCH,
        default="on",
        help="fetch ahead of demand: by heuristics, by the profile of earlier mounts, or both (default: on)",
    )
    add(
        "--prefetch-rate",
        metavar="RATE",
        help="fetch at most so many bytes a second ahead of demand, as 20M (default: no bound)",
    )
    add(
        "--complete",
        metavar="RATE",
        help="fetch the rest of the image once its start is over, so many bytes a second "
        f"(--complete=RATE; --complete alone: {_OPTIONAL_VALUES['complete']})",
    )
    add(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        help=f"the longest that a read may wait (default: {DEFAULT_TIMEOUT:g})",
    )
    add(
        "--cache-size",
        metavar="SIZE",
        help="bound of the cache: bytes with a suffix, or per cent of the disk (default: 25%%, at most 64G)",
    )
    add(
        "--cache-free",
        metavar="SIZE",
        help="disk space that the cache leaves free: bytes, per cent of the disk, or 0 (default: 5%%, at most 4G)",
    )
    add(
        "--rw-size",
        metavar="SIZE",
        help="bound of a read-write layer in memory (default: half of the memory)",
    )
    add("--supervised", action="store_true", help="survive the death of the process that serves the mount")
    add("--allow-unverified", action="store_true", help="serve chunks whose key names no known hash")
    add("--max-flist-size", metavar="SIZE", help="the most that a flist may unpack to (default: 1G)")
    add(
        "-o",
        metavar="OPT,…",
        dest="mount_options",
        action="append",
        default=[],
        help="mount options: suid, dev, …; the options above work here too, as in fstab",
    )
    add("--timings", action="store_true", help="say where the time until the mount went")
    add("target", metavar="MOUNTPOINT", type=given, help="directory to mount at")


def normalise(arguments: Sequence[str]) -> list[str]:
    """Spell every option the way that the parser knows.

    Long options get two dashes and their values joined to them, switches lose theirs (``-ro=true``), and what
    of ``-o`` is not for the kernel becomes an option of its own.
    """
    result: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            return [*result, argument, *arguments[position:]]
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-o") and argument != "-o":
            result += _behind_o(argument[2:])
        elif argument.startswith("-") and name in _OPTIONAL_VALUES:
            result.append(_optional(name, equals, value))
        elif not argument.startswith("-") or not (argument == "-o" or name in _SWITCHES | _VALUES):
            result.append(argument)
        elif name in _SWITCHES:
            result += _switch(name, equals, value)
        elif equals:
            result.append(f"--{name}={value}")
        elif position == len(arguments):
            result.append("-o" if name == "o" else f"--{name}")  # the parser says that its value is missing
        else:
            value = arguments[position]
            position += 1
            result += _behind_o(value) if name == "o" else [f"--{name}={value}"]
    return result


def _switch(name: str, equals: str, value: str) -> list[str]:
    return [f"--{name}"] if not equals or _truth(name, value) else []


def _optional(name: str, equals: str, value: str) -> str:
    """An option whose value only ``=`` can give: the next word is not it."""
    return f"--{name}={value if equals else _OPTIONAL_VALUES[name]}"


def _behind_o(text: str) -> list[str]:
    """The options of ours in a list of mount options, and ``-o`` with the rest."""
    ours, rest = [], []
    for option in filter(None, _COMMA.split(text)):
        name, equals, value = option.partition("=")
        value = value.replace('"', "")
        if name in _SWITCHES:
            ours += _switch(name, equals, value)
        elif name in _OPTIONAL_VALUES:
            ours.append(_optional(name, equals, value))
        elif name in _VALUES:
            ours.append(f"--{name}={value}" if equals else f"--{name}")
        else:
            rest.append(option)
    return [*ours, *(["-o", ",".join(rest)] if rest else [])]


def _truth(name: str, value: str) -> bool:
    if value.lower() in ("true", "t", "1"):
        return True
    if value.lower() in ("false", "f", "0"):
        return False
    raise UsageError(f"--{name} is a switch: {value!r} is neither true nor false")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def mount_options(args: argparse.Namespace, *, subtype: str) -> MountOptions:
    """The options that `args`, parsed by a parser with `add_options`, ask for."""
    if args.supervised and args.engine == "llfuse":
        raise UsageError(
            "--supervised does not go with --engine llfuse, which cannot take over a mount that is in use",
            hint="leave --engine out",
        )
    if args.supervised and not args.meta:
        raise UsageError("--supervised without a flist: there is no server to survive", hint="leave it out")
    return MountOptions(
        target=Path(args.target),
        meta=tuple(args.meta),
        backend=args.backend,
        cache=args.cache,
        storage_url=args.storage_url,
        local_router=args.local_router,
        read_only=args.ro,
        reset=args.reset,
        log=args.log,
        daemon=args.daemon,
        pid_file=args.pid_file,
        debug=args.debug,
        engine=args.engine,
        prefetch=args.prefetch,
        prefetch_rate=None if args.prefetch_rate is None else parse_size(args.prefetch_rate),
        complete=None if args.complete is None or args.prefetch == "off" else parse_size(args.complete),
        timeout=args.timeout,
        cache_size=args.cache_size,
        cache_free=args.cache_free,
        rw_size=args.rw_size,
        allow_unverified=args.allow_unverified,
        max_flist_size=None if args.max_flist_size is None else parse_size(args.max_flist_size),
        mount_options=_kernel_options(args.mount_options),
        subtype=subtype,
        supervised=args.supervised,
        timings=args.timings,
    )


def known_options(text: str) -> str:
    """What of a list of mount options is known to a mount."""
    options = _COMMA.split(text)
    return ",".join(option for option in options if _is_ours(option) or _is_for_mounts(option))


def _is_ours(option: str) -> bool:
    return option.partition("=")[0] in _SWITCHES | _VALUES | _OPTIONAL_VALUES.keys()


def _is_for_mounts(option: str) -> bool:
    known = _KERNEL_OPTIONS | _FSTAB_OPTIONS | _IN_FORCE_ANYWAY
    return option in known or option.lower().startswith("x-")


def _kernel_options(lists: Sequence[str]) -> frozenset[str]:
    """What stands behind -o for the kernel, of opposites the last; what only fstab means is dropped."""
    options: set[str] = set()
    for option in ",".join(lists).split(","):
        if not option or option in _FSTAB_OPTIONS | _IN_FORCE_ANYWAY or option.lower().startswith("x-"):
            continue
        if option not in _KERNEL_OPTIONS:
            known = ", ".join(sorted(_KERNEL_OPTIONS))
            raise UsageError(f"unknown mount option {option!r}", hint=f"known: {known}")
        options.discard(option.removeprefix("no") if option.startswith("no") else f"no{option}")
        options.add(option)
    return frozenset(options)
