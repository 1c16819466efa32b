"""Small files that lie beside one that was opened: the files of one directory are often read together.

How much is guessed grows with what is touched there: one file of a directory is little evidence, three are much.
One thread; no locks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain

from zerofs.flist.model import Kind
from zerofs.prefetch.guess.image import Image

SMALL = 64 << 10  # bytes of a file that is guessed for where it lies
FIRST_FILES, MOST_FILES = 8, 64  # at a time, from the first touch to the third
FIRST_BYTES, MOST_BYTES = 64 << 10, 1 << 20
GROWTH = 4
MOST_DIRECTORIES = 64  # remembered at a time


class _Directory:
    def __init__(self, left: Iterator[tuple[int, int]]) -> None:
        self.left = left  # (row, bytes) of what was not guessed yet
        self.files = FIRST_FILES
        self.bytes = FIRST_BYTES


class Siblings:
    """Guesses by directory."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._directories: OrderedDict[int, _Directory] = OrderedDict()

    def of(self, row: int) -> list[int]:
        """More small files of the directory of `row`, those whose names follow first."""
        parent = self._image.node(row).parent
        known = self._directories.get(parent)
        if known is None:
            known = self._directories[parent] = _Directory(self._around(parent, row))
            if len(self._directories) > MOST_DIRECTORIES:
                self._directories.popitem(last=False)
        found: list[int] = []
        size = 0
        for sibling, bytes_ in known.left:
            found.append(sibling)
            size += bytes_
            if len(found) >= known.files or size >= known.bytes:
                break
        known.files = min(known.files * GROWTH, MOST_FILES)
        known.bytes = min(known.bytes * GROWTH, MOST_BYTES)
        return found

    def _around(self, directory: int, row: int) -> Iterator[tuple[int, int]]:
        """(row, bytes) of small files in `directory`, no programs or libraries, from behind `row` round to it."""
        rows = [child for name, child in self._image.names(directory) if not name.endswith(b".so")]
        at = rows.index(row) if row in rows else 0
        for child in chain(rows[at + 1 :], rows[:at]):
            node = self._image.node(child)
            if node.kind is Kind.DIR and node.length == 1:  # one file, in a directory of its own
                ((_, child),) = self._image.names(child)
                node = self._image.node(child)
            if node.kind is Kind.FILE and 0 < node.size <= SMALL and not node.mode & 0o111:
                yield child, node.size
