"""Directories below a root, reached without following a symbolic link.

Role: both `pack`, whose source may change under its feet, and `unpack`, whose destination may be somebody
else's, go from name to name below an open directory, so neither can be led out of its tree.  Stateless.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # enough to go further
LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(root: int, path: bytes, flags: int = STEP) -> Iterator[int]:
    """A descriptor of the directory at `path` below the descriptor `root`, whose own path is empty.

    Raises OSError: NotADirectoryError where a link stands in the way.
    """
    fd = os.dup(root)
    try:
        names = path.split(b"/") if path else [b"."]
        for position, name in enumerate(names, 1):
            below = os.open(name, flags if position == len(names) else STEP, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def joined(path: bytes, name: bytes) -> bytes:
    """The path of `name` in the directory `path`."""
    return path + b"/" + name if path else name
