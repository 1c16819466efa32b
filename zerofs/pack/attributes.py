"""Owners, modes and times of what `unpack` wrote, as the flist has them.

Role: the last step of an unpacking, children before their directory, whose time their making changed.
Nothing is followed: each name is opened in its directory, and changed through that descriptor.  Stateless.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from zerofs.flist.index import Index, Node
from zerofs.flist.model import Kind
from zerofs.pack.nofollow import LIST, joined, opened

Denied = Callable[[bytes], None]  # told each path whose owner may not be set

_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def set_attributes(index: Index, root: int, directories: Sequence[tuple[bytes, int]], denied: Denied) -> None:
    """Set them below the descriptor `root` in `directories`, which are (path, row), parents first.

    Raises OSError.
    """
    for path, row in reversed(directories):
        with opened(root, path, LIST) as fd:
            for name, child in index.children(row):
                node = index.node(child)
                if node.kind is not Kind.DIR:
                    _set_named(fd, joined(path, name), name, node, denied)
            _set(f"/proc/self/fd/{fd}", path, index.node(row), denied)


def _set_named(fd: int, path: bytes, name: bytes, node: Node, denied: Denied) -> None:
    if node.kind is Kind.LINK:
        _chown(name, path, node, denied, fd)
        os.utime(name, (node.mtime, node.mtime), dir_fd=fd, follow_symlinks=False)
        return
    try:
        file = os.open(name, _ANY, dir_fd=fd)
    except FileNotFoundError:
        if node.kind not in (Kind.CHARDEV, Kind.BLOCK):
            raise
        return  # a device that could not be made
    try:
        _set(f"/proc/self/fd/{file}", path, node, denied)
    finally:
        os.close(file)


def _set(link: str, path: bytes, node: Node, denied: Denied) -> None:
    """Set the attributes of what the magic link leads to."""
    mode = node.attributes.mode
    if not _chown(link, path, node, denied):
        mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they were given to another owner
    Path(link).chmod(mode)
    os.utime(link, (node.mtime, node.mtime))


def _chown(name: str | bytes, path: bytes, node: Node, denied: Denied, fd: int | None = None) -> bool:
    """Whether the owner is as it should be.  With `fd` the name in it, a link, itself."""
    try:
        os.chown(name, node.uid, node.gid, dir_fd=fd, follow_symlinks=fd is None)
    except PermissionError:
        if (node.uid, node.gid) == (os.geteuid(), os.getegid()):
            return True
        denied(path)
        return False
    return True
