"""Paths of a flist as commands take and show them.

Symbolic links in a path are followed within the flist, whose root stands for ``/``, as in a chroot.
"""

from __future__ import annotations

import stat
import time
from typing import Any

from zerofs.cli.output import shown, text
from zerofs.errors import FlistCorruptError, PathNotInFlistError
from zerofs.flist import paths
from zerofs.flist.index import MISSING, Index, Node
from zerofs.flist.model import Kind


def find(index: Index, path: bytes, *, follow: bool = True) -> int:
    """The row at `path`; a link at its very end is followed only with `follow`.

    Raises PathNotInFlistError.
    """
    try:
        return paths.find(index, path, follow=follow)
    except LookupError as error:
        raise PathNotInFlistError(f"{shown(path)}: {error}") from None


def children(index: Index, row: int, path: bytes) -> list[tuple[bytes, int]]:
    """(name, row) of what is in the directory.  Raises FlistCorruptError where its record is missing."""
    if index.node(row).length == MISSING:
        raise FlistCorruptError(f"{shown(path) or '/'}: the flist has no record of this directory")
    return index.children(row)


def is_directory(index: Index, row: int) -> bool:
    return index.node(row).kind is Kind.DIR


def as_json(index: Index, row: int, path: bytes) -> dict[str, Any]:
    """All attributes; as in the manifests, the mode is octal text and a device ``major,minor``."""
    node = index.node(row)
    value: dict[str, Any] = {
        "path": text(path) or ".",
        "kind": node.kind.name.lower(),
        "mode": f"{node.attributes.mode:04o}",
        "uid": node.uid,
        "gid": node.gid,
        "size": node.size,
        "nlink": node.nlink,
        "mtime": node.mtime,
        "ctime": node.ctime,
    }
    if node.kind is Kind.LINK:
        value["target"] = text(index.target(row))
    if node.kind in (Kind.CHARDEV, Kind.BLOCK):
        value["rdev"] = "{},{}".format(*node.device)
    return value


def mode_text(node: Node) -> str:
    """As ``-rwsr-xr-x``."""
    return stat.filemode(node.mode)


def time_text(seconds: int) -> str:
    """In the local time zone; a number where the calendar ends."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}"
