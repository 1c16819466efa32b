"""What a living mount serves, for commands that are told its mount point instead of its flist.

The server's command line says it, as its user gave it; the cache is the one that it has open.  Both are read from
``/proc``, so this takes the rights of the mount's user.  What SIGHUP laid over it since, the server itself is asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zerofs.cli import output
from zerofs.errors import MountError
from zerofs.mount.options import MountOptions

_CACHE_FILE = "users.lock"  # that every user of a cache has open


def options_of(path: Path, *, swapped: bool) -> MountOptions | None:
    """The options, with absolute paths, of the flist mount at `path`; None where none is mounted.

    `cache` is set.  `swapped`: `meta` holds the flists, too, that were laid over those of the command line.
    Raises MountError where its server cannot be asked.
    """
    from zerofs.mount import mountinfo
    from zerofs.mount.unmount import server_of

    mount = mountinfo.top(mountinfo.locate(path))
    server = None if mount is None else server_of(mount)
    if server is None:
        return None
    process = Path(f"/proc/{server}")
    try:
        arguments = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")[:-1]]
        options = _parse(arguments)
        servers = _children(process) if options is not None and options.supervised else []
        cache = next(filter(None, map(_cache_of, [process, *servers])), None)
        here = (
            _started_in(process) if options is not None and options.daemon else (process / "cwd").readlink()
        )
    except OSError as error:
        raise MountError(
            f"{path}: cannot ask its server, process {server}: {error.strerror}",
            hint="run this as the user who mounted it, or name the flist",
        ) from error
    if options is None or cache is None:
        raise MountError(
            f"{path}: process {server} does not say what it serves",
            hint="name the flist instead of the mount point",
        )
    from zerofs.cli.mounting import absolute

    if swapped and options.meta:
        options = options._replace(meta=(*options.meta, *_layers(path, len(options.meta))))
    return absolute(options, here)._replace(cache=cache)


def _layers(path: Path, base: int) -> list[str]:
    """The flists that the mount at `path` serves beside the first `base` ones."""
    from zerofs.mount import inquiry

    try:
        flists: list[str] = inquiry.ask(inquiry.find(path))["mount"]["flists"]
    except MountError as error:
        output.warn(f"flists that SIGHUP may have laid over the mount are not known: {error}")
        return []
    if any("://***" in flist or flist.endswith("?***") for flist in flists[base:]):
        raise MountError(
            f"{path}: the URL of a flist that was laid over it has a secret, which its server does not tell",
            hint="name the flists instead of the mount point, one after the other",
        )
    return flists[base:]


def _parse(words: Sequence[str]) -> MountOptions | None:
    """The options on the command line of a server, behind the interpreter and its script."""
    from zerofs.cli import is_from_mount, is_helper

    for position, word in enumerate(words[:4]):
        name = Path(word).name
        if name == "__main__.py":
            name = Path(word).parent.name
        arguments = list(words[position + 1 :])
        if name in ("g8ufs", "0-fs"):
            from zerofs.cli.g8ufs import parse_g8ufs

            return parse_g8ufs(arguments)
        if is_helper(name) or (name == "zerofs" and is_from_mount(arguments)):
            from zerofs.cli.helper import parse_helper

            return parse_helper(arguments)
        if name == "zerofs" and "mount" in arguments:
            from zerofs.cli.mount import parse_mount

            arguments.remove("mount")
            return parse_mount(arguments)
    return None


def _children(process: Path) -> list[Path]:
    """The processes that a supervisor has started, the latest first."""
    numbers = (process / "task" / process.name / "children").read_text().split()
    return [Path("/proc") / number for number in reversed(numbers)]


def _cache_of(process: Path) -> Path | None:
    """The directory of the cache that a process has open."""
    for descriptor in (process / "fd").iterdir():
        try:
            target = descriptor.readlink()
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.name == _CACHE_FILE:
            return target.parent
    return None


def _started_in(process: Path) -> Path:
    """Where a daemon was started: it has left that directory, but its environment names it."""
    variables = (process / "environ").read_bytes().split(b"\0")
    named = (os.fsdecode(each[4:]) for each in variables if each.startswith(b"PWD=/"))
    return Path(next(named, "/"))
