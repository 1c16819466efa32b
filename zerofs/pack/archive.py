"""The tree that the members of an archive make, one after the other.

Role: where a member's name lands.  Names come from outside: they are taken relative to the tree's root
whatever they look like, ``..`` is refused, and a symbolic link among a name's parents is followed
within the tree, as extraction into a root of its own would.  One thread, no locks.
"""

from __future__ import annotations

from zerofs.errors import SourceError
from zerofs.flist.model import DIRECTORY_SIZE, Kind
from zerofs.pack.tree import SYNTHESISED, Node

MAX_LINKS = 40  # symbolic links followed for one name, as in the kernel


class ArchiveTree:
    """A tree that grows by members; `origin` names the archive in messages."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.root = _directory()

    def put(self, name: bytes, node: Node) -> None:
        """Set the path `name` to `node`; a directory that is there keeps its children."""
        parts = self._parts(name)
        if not parts:
            self._replace_root(node)
            return
        parent = self._parent(parts, name)
        there = parent.children.get(parts[-1])
        if there is not None and there.kind is Kind.DIR and node.kind is Kind.DIR:
            node.children = there.children
        parent.children[parts[-1]] = node

    def link(self, name: bytes, target: bytes) -> None:
        """Make `name` another name of what is at `target`."""
        parts = self._parts(target)
        parent = self._parent(parts, target) if parts else self.root
        node = parent.children.get(parts[-1]) if parts else None
        if node is None or node.kind is Kind.DIR:
            raise self._refused(name, f"is a hard link to {_shown(target)}, which is no file before it")
        self.put(name, node)

    def _replace_root(self, node: Node) -> None:
        if node.kind is not Kind.DIR:
            raise self._refused(b".", "the root of a tree is a directory")
        node.children = self.root.children
        self.root = node

    def _parts(self, name: bytes) -> list[bytes]:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self._refused(name, "climbs out of the archive with '..'")
        return parts

    def _parent(self, parts: list[bytes], name: bytes) -> Node:
        """The directory that holds the last of `parts`; missing ones are made, links followed."""
        trail = [self.root]
        pending = parts[-2::-1]  # reversed: the next one last
        links = 0
        while pending:
            part = pending.pop()
            if part == b"..":
                del trail[max(1, len(trail) - 1) :]
                continue
            child = trail[-1].children.get(part)
            if child is None:
                child = trail[-1].children[part] = _directory()
            if child.kind is Kind.LINK:
                links += 1
                if links > MAX_LINKS:
                    raise self._refused(name, "lies behind a loop of symbolic links")
                if child.target.startswith(b"/"):
                    del trail[1:]
                pending.extend(p for p in reversed(child.target.split(b"/")) if p not in (b"", b"."))
            elif child.kind is Kind.DIR:
                trail.append(child)
            else:
                raise self._refused(name, f"lies below {_shown(part)}, which is not a directory")
        return trail[-1]

    def _refused(self, name: bytes, reason: str) -> SourceError:
        return SourceError(f"{self._origin}: {_shown(name)}: {reason}")


def _directory() -> Node:
    return Node(Kind.DIR, SYNTHESISED, size=DIRECTORY_SIZE)


def _shown(name: bytes) -> str:
    return ascii(name.decode("utf-8", "surrogateescape"))
