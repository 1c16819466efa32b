"""The trees that every file system is given: an image of many small files, and one large file.

The image is a real Debian root where one can be had, else a tree of the like: twelve thousand entries,
most of them small.  The large file is half random and half text, in alternation, so that compressing peers
have something to do and nothing to win outright.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import NamedTuple

from zerofs.bench.debian import ImageUnavailableError, debian_root, image_cache

LARGE = "large"
_BLOCK = 32 * 1024
_TEXT = b"A chunk is fetched the first time that somebody reads it.\n"


class Corpus(NamedTuple):
    """A directory to be mounted by everybody."""

    name: str
    directory: Path
    origin: str  # for the report
    quick: bool = False  # made to see whether everything works


def _entries(directory: Path) -> int:
    return sum(1 for _ in directory.rglob("*"))


def synthetic_image(directory: Path, files: int) -> Corpus:
    """A tree of `files` files, 0 to 64 KiB, most of them small, thirty to a directory, always the same."""
    source = random.Random(7)
    for number in range(files):
        place = directory / f"part{number // 900:02}" / f"lib{number // 30:04}"
        place.mkdir(parents=True, exist_ok=True)
        size = min(int(source.expovariate(1 / 6000)), 65536)
        (place / f"file{number:05}.bin").write_bytes(source.randbytes(size))
        if number % 10 == 0:
            (place / f"link{number:05}").symlink_to(f"file{number:05}.bin")
    return Corpus("image", directory, f"{_entries(directory):,} entries, synthetic")


def image(workdir: Path, *, quick: bool) -> Corpus:
    """The Debian root where it can be had; with `quick` always a small synthetic tree."""
    if not quick:
        try:
            root = debian_root(image_cache())
        except ImageUnavailableError:
            pass  # the report names the origin of what was used instead
        else:
            return Corpus("image", root.directory, f"{_entries(root.directory):,} entries, Debian root")
    return synthetic_image(workdir / "image", 300 if quick else 10_000)._replace(quick=quick)


def large_file(workdir: Path, size: int, *, quick: bool) -> Corpus:
    """One file of `size` bytes, named by `LARGE`."""
    directory = workdir / "file"
    directory.mkdir()
    source = random.Random(11)
    text = (_TEXT * (_BLOCK // len(_TEXT) + 1))[:_BLOCK]
    with (directory / LARGE).open("wb") as file:
        while (left := size - file.tell()) > 0:
            file.write((source.randbytes(_BLOCK) + text)[:left])
    return Corpus("file", directory, f"{size / 2**20:,.0f} MiB in one file", quick)


def remove(corpus: Corpus, workdir: Path) -> None:
    """Remove what was made below `workdir`; an image kept elsewhere stays."""
    if workdir in corpus.directory.parents:
        shutil.rmtree(corpus.directory)
