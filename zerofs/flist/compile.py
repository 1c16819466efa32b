"""Compile a flist's records into the tables of an index.

Role: the only consumer of `FlistReader`, whatever the generation, and of several of them laid over
each other (`zerofs.flist.layers`).  One pass, breadth first, one record in memory at a time, rows packed
as they come (`zerofs.flist._tables`); single thread, no locks.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

from zerofs.errors import FlistCorruptError
from zerofs.flist._tables import TreeTables
from zerofs.flist.index import Tables
from zerofs.flist.model import Attributes, Directory, FlistReader

log = logging.getLogger(__name__)

_MISSING_ATTRIBUTES = Attributes(0o400, 1000, 1000, 0, 0)  # what an entry without an ACI gets


class _Pending(NamedTuple):
    """A directory that has a row but whose record was not read yet."""

    row: int
    parent: int
    key: bytes


def compile_flist(reader: FlistReader) -> Tables:
    """The tables of everything below the root of `reader`.

    Raises FlistCorruptError where the root's record is missing or a record cannot be read,
    FlistTooLargeError for more than an index can number.
    """
    root = reader.root()
    if reader.directory(root) is None:
        raise FlistCorruptError("the flist holds no record of its root directory")
    tables = TreeTables()
    expanded: set[bytes] = set()
    missing = 0
    queue = deque([_Pending(0, 0, root)])
    while queue:
        row, parent, key = queue.popleft()
        directory = _record(reader, key, expanded)
        if directory is None:
            missing += 1
            tables.put_missing(row, parent, _MISSING_ATTRIBUTES)
            continue
        below = tables.put(row, parent, directory)
        queue.extend(_Pending(child, row, child_key) for child, child_key in below)
    if missing:
        log.warning("%d directories have no record of their own: reading them is EIO", missing)
    return Tables(*tables.sections())


def _record(reader: FlistReader, key: bytes, expanded: set[bytes]) -> Directory | None:
    """The record of a directory; a key met again (a cycle, or a tree that would grow without end) has none."""
    if key in expanded:
        return None
    expanded.add(key)
    return reader.directory(key)
