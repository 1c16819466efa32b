"""Indexes read as flists again: for laying several over each other, and for writing one anew.

A layered mount is one more flist whose directories are unions; so it is compiled, named and mapped like
any other, and nothing after it knows that there were layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from zerofs.flist.index import MISSING, Index, Node
from zerofs.flist.model import ChunkRef, Directory, Entry, Kind, Route


class LayeredReader:
    """The union of `layers`, the last one on top, as a `FlistReader`.

    A directory found in several layers shows all their entries, the topmost of a name winning; its
    attributes are the topmost's.  Anything else hides what lies below its path.
    """

    format = "layers"
    names: dict[str, int] = {}  # owners are resolved already  # noqa: RUF012

    def __init__(self, layers: Sequence[Index]) -> None:
        self._layers = layers
        self._width = len(layers)

    def root(self) -> bytes:
        return self._key([(number, 0) for number in reversed(range(self._width))])

    def directory(self, key: bytes) -> Directory | None:
        """The union of the rows that `key` names, topmost first."""
        parts = [(self._layers[number], row) for number, row in _rows(key)]
        top, top_row = parts[0]
        if top.node(top_row).length == MISSING:
            return None
        merged: dict[bytes, Entry] = {}
        below: dict[bytes, list[tuple[int, int]]] = {}
        hidden: set[bytes] = set()
        for number, row in _rows(key):
            layer = self._layers[number]
            for name, child in layer.children(row):
                node = layer.node(child)
                if name not in merged:
                    merged[name] = _entry(layer, name, child, node)
                if name not in hidden and node.kind is Kind.DIR:
                    below.setdefault(name, []).append((number, child))
                else:
                    hidden.add(name)
        entries = [
            entry._replace(key=self._key(below[name])) if entry.kind is Kind.DIR else entry
            for name, entry in merged.items()
        ]
        return Directory(top.node(top_row).attributes, entries)

    def routes(self) -> Sequence[Route]:
        return ()

    def close(self) -> None:
        """Leaves the layers open: they belong to the caller."""

    @staticmethod
    def _key(rows: Sequence[tuple[int, int]]) -> bytes:
        return b",".join(b"%d:%d" % pair for pair in rows)


def _rows(key: bytes) -> list[tuple[int, int]]:
    return [(int(number), int(row)) for number, row in (part.split(b":") for part in key.split(b","))]


def _entry(layer: Index, name: bytes, row: int, node: Node) -> Entry:
    kind = node.kind
    if kind is Kind.DIR:
        return Entry(name, kind, node.attributes)
    if kind is Kind.LINK:
        return Entry(name, kind, node.attributes, node.size, target=layer.target(row))
    if kind is Kind.FILE:
        chunks = [ChunkRef(*layer.chunk(number)[:2]) for number in layer.refs(row)]
        return Entry(name, kind, node.attributes, node.size, block_size=node.block_size, chunks=chunks)
    return Entry(name, kind, node.attributes, device=node.device)
