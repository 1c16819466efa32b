"""The tree that is being packed, in memory: metadata only, no content.

Role: sources (:mod:`.directory`, :mod:`.tar`) build it, the pipeline fills in the fingerprints of the chunks,
:func:`records` turns it into what a writer takes.  One :class:`Node` per inode: the names of a
hard-linked file lead to the same node.  Not thread-safe, but for the lists of fingerprints: a worker may
set an item of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from zerofs.flist.model import Attributes, ChunkRef, Directory, Entry, Kind, Tree

SYNTHESISED = Attributes(mode=0o755, uid=0, gid=0, mtime=0, ctime=0)  # of a directory that none describes


class Node:
    """What an :class:`Entry` says, and the children by name where it is a directory."""

    __slots__ = ("attributes", "children", "device", "kind", "prints", "size", "target")

    def __init__(
        self,
        kind: Kind,
        attributes: Attributes,
        *,
        size: int = 0,
        target: bytes = b"",
        device: tuple[int, int] = (0, 0),
    ) -> None:
        self.kind = kind
        self.attributes = attributes
        self.size = size  # bytes; of a link the length of its target
        self.target = target
        self.device = device
        self.prints: list[bytes] = []  # fingerprints of a file's chunks, in order
        self.children: dict[bytes, Node] = {}


def walk(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Every directory with its path (the root's is empty), parents before children, names sorted."""
    stack = [(b"", root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        prefix = path + b"/" if path else b""
        stack.extend(
            (prefix + name, child)
            for name, child in sorted(node.children.items(), reverse=True)
            if child.kind is Kind.DIR
        )


def records(root: Node, references: Mapping[bytes, ChunkRef]) -> Tree:
    """The tree as a writer takes it; `references` holds the reference of every fingerprint."""
    for path, node in walk(root):
        yield (
            path,
            Directory(
                node.attributes,
                [
                    Entry(
                        name=name,
                        kind=child.kind,
                        attributes=child.attributes,
                        size=child.size,
                        target=child.target,
                        device=child.device,
                        chunks=[references[chunk] for chunk in child.prints],
                    )
                    for name, child in sorted(node.children.items())
                ],
            ),
        )
