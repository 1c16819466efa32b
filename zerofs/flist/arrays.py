"""The tables of an index as numpy structured arrays: for whoever counts over a whole flist.

Importing numpy takes longer than mounting, so this is not on the way of a mount.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zerofs.flist.index import CHUNK, NODE, Index

NODE_TYPE = np.dtype(
    [
        *((name, "<u8") for name in ("size", "mtime", "ctime", "first")),
        *(
            (name, "<u4")
            for name in ("length", "mode", "uid", "gid", "nlink", "rdev", "block_size", "parent")
        ),
    ]
)
CHUNK_TYPE = np.dtype(
    [
        ("id", "V32"),
        ("key", "V32"),
        ("id_form", "u1"),
        ("key_form", "u1"),
        ("reserved", "<u2"),
        ("size", "<u4"),
    ]
)
assert (NODE_TYPE.itemsize, CHUNK_TYPE.itemsize) == (NODE.size, CHUNK.size)


class Arrays(NamedTuple):
    """One row a node, a chunk of a file, and a distinct chunk."""

    nodes: npt.NDArray[Any]
    refs: npt.NDArray[np.uint32]
    chunks: npt.NDArray[Any]


def arrays(index: Index) -> Arrays:
    """The tables of `index`; of a freshly compiled one, every row belongs to the tree."""
    tables = index.sections()
    return Arrays(
        np.frombuffer(tables.nodes, NODE_TYPE),
        np.frombuffer(tables.refs, "<u4"),
        np.frombuffer(tables.chunks, CHUNK_TYPE),
    )
