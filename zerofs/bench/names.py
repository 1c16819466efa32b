"""The names that the load asks for, in lists for the compiled helper: what is there, and what is not.

They are taken from the plain directory once; every file system is asked for the same names in the same order.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SMALL = 64 * 1024  # bytes; what counts as a small file

_COMMANDS = 500  # that nobody has installed
_MODULES = 300
# as a search path has them, the last one found; elsewhere the first directories of the tree
_SHELL_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_IMPORT_PATH = ("usr/lib/python3.*", "usr/lib/python3.*/lib-dynload", "usr/lib/python3/dist-packages")
_SUFFIXES = (
    "",
    "/__init__.so",
    "/__init__.py",
    ".cpython-3-x86_64-linux-gnu.so",
    ".abi3.so",
    ".so",
    ".py",
    ".pyc",
)


class Names(NamedTuple):
    """A list on the disk: names relative to the root of a tree, each ended by a NUL."""

    path: Path
    number: int
    size: int  # bytes in all of these files


class Lists(NamedTuple):
    """All lists of one tree."""

    entries: Names  # everything but the root
    small_files: Names  # regular files of up to `SMALL` bytes, not empty
    commands: Names  # looked for along a PATH, none is there
    modules: Names  # looked for as an import does, none is there


def make_lists(tree: Path, directory: Path) -> Lists:
    """Look through `tree` and write its lists below `directory`."""
    directory.mkdir()
    entries, small, size = [], [], 0
    for path, status in _walk(tree):
        name = os.path.relpath(path, tree)
        entries.append(name)
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= SMALL:
            small.append(name)
            size += status.st_size
    commands = [
        f"{place}/no-command-{number}" for number in range(_COMMANDS) for place in _places(tree, _SHELL_PATH)
    ]
    modules = [
        f"{place}/no_module_{number}{suffix}"
        for number in range(_MODULES)
        for place in _places(tree, _IMPORT_PATH)
        for suffix in _SUFFIXES
    ]
    return Lists(
        _write(directory / "entries", entries),
        _write(directory / "small-files", small, size),
        _write(directory / "commands", commands),
        _write(directory / "modules", modules),
    )


def _walk(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    for directory, directories, files in os.walk(tree):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = f"{directory}/{name}"
            yield path, os.lstat(path)


def _places(tree: Path, wanted: Iterable[str]) -> list[str]:
    found = [place for pattern in wanted for place in sorted(tree.glob(pattern)) if place.is_dir()]
    if not found:
        found = [path for path in sorted(tree.iterdir()) if path.is_dir()][:3] or [tree]
    return [str(place.relative_to(tree)) for place in found]


def _write(path: Path, names: list[str], size: int = 0) -> Names:
    path.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
    return Names(path, len(names), size)
