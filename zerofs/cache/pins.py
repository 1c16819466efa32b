"""Pinned flists: their chunks stay in the cache until the pin is taken out.

A pin is a file, ``CONTENT-HASH.pin``, beside the compiled indexes in ``flists``; it says what the flist was
called.  The chunks are those of the index with that content hash.  A pin whose index is gone keeps nothing, and
is harmless.

Place: `evictor` asks before it lets something go.  Threads: any may read and write pin files; `Pins` belongs to
one at a time.
"""

from __future__ import annotations

import json
import logging
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from zerofs.chunk.codec import cache_name
from zerofs.errors import CacheError, FlistCorruptError
from zerofs.flist.index import Index
from zerofs.flist.load import index_path, write_atomically

logger = logging.getLogger(__name__)

SUFFIX = ".pin"
LOOK_EVERY = 1.0  # seconds between looks for pins that came or went


class Pin(NamedTuple):
    """One pinned flist."""

    content: str  # its content hash, in hexadecimal digits
    flist: str  # as the user named it


class Names:
    """A set of names in the cache, eight bytes each: of two names with one hash, one stands for the other."""

    def __init__(self, names: Iterable[bytes]) -> None:
        self._hashes = array("Q", sorted(map(xxhash.xxh3_64_intdigest, names)))

    def __contains__(self, name: bytes) -> bool:
        wanted = xxhash.xxh3_64_intdigest(name)
        at = bisect_left(self._hashes, wanted)
        return at < len(self._hashes) and self._hashes[at] == wanted

    def __len__(self) -> int:
        return len(self._hashes)


class Pins:
    """What is pinned in the directory `state` now."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._looked = -LOOK_EVERY  # time.monotonic()
        self._seen: list[tuple[str, int]] = []
        self._names = Names(())

    def is_pinned(self) -> Callable[[bytes], bool]:
        """Tells whether a name is pinned, at this moment; takes long where pins came or went."""
        now = time.monotonic()
        if now >= self._looked + LOOK_EVERY:
            self._looked = now
            seen = sorted(_files(self._state))
            if seen != self._seen:
                self._names = Names(self._read(name for name, _ in seen))
                self._seen = seen
        return self._names.__contains__ if self._names else _nothing

    def _read(self, files: Iterable[str]) -> Iterator[bytes]:
        for file in files:
            path = index_path(self._state, file.removesuffix(SUFFIX))
            try:
                yield from names_of(Index.open(path))
            except FileNotFoundError:
                logger.info("the flist of the pin %s is not compiled here", file)
            except (OSError, FlistCorruptError) as error:
                logger.warning("the chunks of a pinned flist are not kept: %s", error)


def names_of(index: Index) -> Iterator[bytes]:
    """The names of all chunks of a flist in the cache, each once."""
    for number in range(index.chunk_count):
        yield cache_name(index.chunk(number).key)


def pin(state: Path, content: str, flist: str) -> bool:
    """Pin a flist whose index is in `state`; False where it was pinned before.  Raises CacheError."""
    path = state / f"{content}{SUFFIX}"
    new = not path.exists()
    try:
        write_atomically(json.dumps({"flist": flist}).encode(), path)
    except OSError as error:
        raise CacheError(f"cannot pin in {state}: {error.strerror}", hint="look at its disk") from error
    return new


def unpin(state: Path, content: str) -> bool:
    """Take a pin out; False where there was none.  Raises CacheError."""
    try:
        (state / f"{content}{SUFFIX}").unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CacheError(f"cannot unpin in {state}: {error.strerror}", hint="look at its disk") from error
    return True


def pinned(state: Path) -> list[Pin]:
    """All pins; one that cannot be read counts as well, without a name."""
    found = []
    for name, _ in sorted(_files(state)):
        try:
            flist = str(json.loads((state / name).read_bytes())["flist"])
        except (OSError, ValueError, KeyError, TypeError):
            flist = ""
        found.append(Pin(name.removesuffix(SUFFIX), flist))
    return found


def _files(state: Path) -> Iterator[tuple[str, int]]:
    """(file name, time of its last change) of all pins."""
    try:
        with os.scandir(state) as entries:
            for each in entries:
                if each.name.endswith(SUFFIX):
                    try:
                        yield each.name, each.stat(follow_symlinks=False).st_ctime_ns
                    except FileNotFoundError:
                        continue
    except (FileNotFoundError, NotADirectoryError):
        return


def _nothing(name: bytes) -> bool:
    return False
