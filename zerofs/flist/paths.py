"""Paths looked up in an index as a chroot would: links followed, ``..`` and ``/`` end at the root.

Role: for commands, which take paths from users, and for guesses, which take them from the image's files.
Work is bounded whatever the links say.  Stateless; any thread.
"""

from __future__ import annotations

from typing import Protocol

from zerofs.flist.index import Node
from zerofs.flist.model import Kind

MAX_LINKS = 40  # followed for one path, as in the kernel
MAX_PATH = 4096  # bytes of a path or of a link's target, as in the kernel


class Tree(Protocol):
    """What is asked of an index."""

    def lookup(self, row: int, name: bytes, /) -> int | None: ...
    def node(self, row: int, /) -> Node: ...
    def target(self, row: int, /) -> bytes: ...


def find(index: Tree, path: bytes, *, start: int = 0, follow: bool = True) -> int:
    """The row at `path`, relative to the directory `start` unless it begins with a slash.

    A link at its very end is followed only with `follow`.  Raises LookupError, which says why there is none.
    """
    row = 0 if path.startswith(b"/") else start
    pending = _parts(path)
    links = 0
    while pending:
        name = pending.pop()
        if name == b"..":
            row = index.node(row).parent
            continue
        child = index.lookup(row, name)
        if child is None:
            raise LookupError("the flist has no such path")
        node = index.node(child)
        if node.kind is Kind.LINK and (pending or follow):
            links += 1
            if links > MAX_LINKS:
                raise LookupError("too many symbolic links")
            if node.length > MAX_PATH:
                raise LookupError("a symbolic link is too long")
            target = index.target(child)
            row = 0 if target.startswith(b"/") else row
            pending += _parts(target)
        else:
            row = child
    return row


def _parts(path: bytes) -> list[bytes]:
    """The names in `path`, the next one last."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
