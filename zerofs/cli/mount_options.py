"""The options of a mount, shared by the drop-in command and `zerofs mount`, and how callers spell them.

Container hosts write one dash or two (``-meta x``, ``--meta x``, ``--meta=x``), as the ancestor's option parser
allowed; mount(8) and fstab write everything behind ``-o``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from zerofs.errors import UsageError
from zerofs.mount.options import DEFAULT_BACKEND, DEFAULT_TIMEOUT, ENGINES, MountOptions
from zerofs.sizes import parse_size

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
        "timeout",
        "cache-size",
        "rw-size",
        "max-flist-size",
    ]
)
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
        "relatime",
        "norelatime",
        "strictatime",
        "diratime",
        "nodiratime",
        "sync",
        "async",
        "dirsync",
        "allow_other",
        "default_permissions",
    ]
)
_FSTAB_OPTIONS = frozenset(
    ["defaults", "auto", "noauto", "user", "nouser", "users", "nofail", "rw", "_netdev"]
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a mount, and MOUNTPOINT."""
    add = parser.add_argument
    add(
        "--meta",
        metavar="FLIST",
        action="append",
        default=[],
        help="flist: a file, its unpacked directory or a URL; may appear many times, the last on top",
    )
    add(
        "--backend",
        metavar="DIR",
        type=Path,
        help="working directory that keeps the read-write layer "
        f"(default: {DEFAULT_BACKEND}, with the read-write layer in memory)",
    )
    add(
        "--cache",
        metavar="DIR",
        type=Path,
        help="cache directory, shared by many mounts (default: BACKEND/ca)",
    )
    add("--storage-url", metavar="URL", help="store of last resort")
    add("--local-router", metavar="FILE", type=Path, help="router.yaml that goes before those of the flists")
    add("--ro", action="store_true", help="read-only: the flist itself, without a read-write layer")
    add("--reset", action="store_true", help="empty the backend before mounting")
    add("--log", metavar="FILE", type=Path, help="log there instead of stderr")
    add("--daemon", "-d", action="store_true", help="go to the background once the mount can be used")
    add("--pid", metavar="FILE", type=Path, dest="pid_file", help="write the process id of the daemon there")
    add("--debug", action="store_true", help="log more, and show tracebacks")
    add("--engine", choices=ENGINES, default="auto", help="FUSE engine (default: auto)")
    add("--prefetch", choices=("on", "off"), default="on", help="read ahead of demand (default: on)")
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
        "--rw-size",
        metavar="SIZE",
        help="bound of a read-write layer in memory (default: half of the memory)",
    )
    add("--supervised", action="store_true", help=argparse.SUPPRESS)
    add("--allow-unverified", action="store_true", help="serve chunks whose key names no known hash")
    add("--max-flist-size", metavar="SIZE", help="the most that a flist may unpack to (default: 4G)")
    add(
        "-o",
        metavar="OPT,…",
        dest="mount_options",
        action="append",
        default=[],
        help="mount options: suid, dev, …; the options above work here too, as in fstab",
    )
    add("--timings", action="store_true", help="say where the time until the mount went")
    add("target", metavar="MOUNTPOINT", type=Path, help="directory to mount at")


def normalise(arguments: Sequence[str]) -> list[str]:
    """Spell long options with two dashes, values joined to them, and switches without one (``-ro=true``)."""
    result: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            return [*result, argument, *arguments[position:]]
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name not in _SWITCHES | _VALUES:
            result.append(argument)
        elif name in _SWITCHES:
            result += [f"--{name}"] if not equals or _truth(name, value) else []
        elif equals:
            result.append(f"--{name}={value}")
        elif position < len(arguments):
            result.append(f"--{name}={arguments[position]}")
            position += 1
        else:
            result.append(f"--{name}")  # the parser says that its value is missing
    return result


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
    if args.supervised:
        raise UsageError("--supervised is not available in this version", hint="leave it out")
    return MountOptions(
        target=args.target,
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
        prefetch=args.prefetch == "on",
        timeout=args.timeout,
        cache_size=args.cache_size,
        rw_size=args.rw_size,
        allow_unverified=args.allow_unverified,
        max_flist_size=None if args.max_flist_size is None else parse_size(args.max_flist_size),
        mount_options=_kernel_options(args.mount_options),
        subtype=subtype,
        timings=args.timings,
    )


def _kernel_options(lists: Sequence[str]) -> frozenset[str]:
    """What stands behind -o for the kernel; what only fstab means is dropped."""
    options = {option for text in lists for option in text.split(",") if option}
    options = {option for option in options if option not in _FSTAB_OPTIONS and not option.startswith("x-")}
    unknown = sorted(options - _KERNEL_OPTIONS)
    if unknown:
        raise UsageError(
            f"unknown mount option {unknown[0]!r}", hint=f"known: {', '.join(sorted(_KERNEL_OPTIONS))}"
        )
    return frozenset(options)


def expand_fstab(arguments: Sequence[str]) -> list[str]:
    """Turn options of ours behind ``-o`` (``-o ro,storage-url=…``) into options of their own."""
    result: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument != "-o" or position == len(arguments):
            result.append(argument)
            continue
        kept = []
        for option in arguments[position].split(","):
            name = option.partition("=")[0]
            if name in _VALUES | _SWITCHES:
                result.append(f"--{option}")
            else:
                kept.append(option)
        position += 1
        if kept:
            result += ["-o", ",".join(kept)]
    return result
