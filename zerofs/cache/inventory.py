"""What lies in a cache directory beside the chunks: compiled flists, pins, and what is of no use to anybody.

Place: behind `zerofs df` and `zerofs gc`.  Looks only, but for `remove`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zerofs.cache.directory import BAD_PREFIX
from zerofs.cache.pins import Names, names_of, pinned
from zerofs.errors import FlistCorruptError
from zerofs.flist.index import VERSION, Index

logger = logging.getLogger(__name__)

ORPHAN_AGE = 3600.0  # seconds; a temporary file that is older was left by somebody who was killed


class Known(NamedTuple):
    """A flist of which the cache has an index, or a pin."""

    content: str  # its content hash, in hexadecimal digits
    flist: str  # what it was called when it was pinned, or nothing
    pinned: bool
    tree: Index | None  # its compiled index


class Litter(NamedTuple):
    """A file that nobody needs."""

    kind: str  # "index", "temporary", "bad"
    path: Path
    size: int  # bytes on the disk


def known_flists(state: Path) -> list[Known]:
    """All flists that `state` knows, by content hash."""
    pins = {pin.content: pin.flist for pin in pinned(state)}
    suffix = f".index-{VERSION}"
    contents = {path.name.removesuffix(suffix) for path in state.glob(f"*{suffix}")} | set(pins)
    return [Known(each, pins.get(each, ""), each in pins, _opened(state, each)) for each in sorted(contents)]


def known_names(state: Path) -> Names:
    """The names of all chunks of all flists that `state` knows."""
    return Names(name for flist in known_flists(state) if flist.tree for name in names_of(flist.tree))


def litter(directory: Path) -> list[Litter]:
    """Files of a cache directory that nobody needs any more."""
    return [*_bad(directory), *_of_state(directory / "flists")]


def remove(found: Litter) -> bool:
    """Remove it; False where that is not possible."""
    try:
        found.path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", found.path, error.strerror)
        return False
    return True


def _opened(state: Path, content: str) -> Index | None:
    try:
        return Index.open(state / f"{content}.index-{VERSION}")
    except (OSError, FlistCorruptError):
        return None


def _bad(directory: Path) -> Iterator[Litter]:
    for path in sorted(directory.glob(f"{BAD_PREFIX}*")):
        yield Litter("bad", path, _size(path))


def _of_state(state: Path) -> Iterator[Litter]:
    for path in sorted(state.glob("*.index-*")):
        if not path.name.startswith(".") and not path.name.endswith(f".index-{VERSION}"):
            yield Litter("index", path, _size(path))
    for path in sorted((*state.glob(".memo-*"), *state.glob(".index-*"))):
        try:
            old = time.time() - path.lstat().st_mtime > ORPHAN_AGE
        except OSError:
            continue
        if old:
            yield Litter("temporary", path, _size(path))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
