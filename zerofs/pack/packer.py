"""Packing: a source's content into the stores, then its metadata into a flist.

Role: the order that keeps a run whole.  The stores are asked first whether they answer; the content is
stored; only when all of it is there does the flist get written, under a temporary name, and renamed.
A run that ends early leaves chunks behind at most, which the next run finds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Protocol

from zerofs.chunk.codec import Codec
from zerofs.errors import DestinationError
from zerofs.flist.model import FlistWriter, Kind, Tree
from zerofs.flist.writer import open_writer
from zerofs.interruption import uninterrupted
from zerofs.pack.destinations import Publication
from zerofs.pack.losses import Count, Loss, Losses
from zerofs.pack.pipeline import Counters, Pipeline
from zerofs.pack.pool import Pool
from zerofs.pack.progress import Progress
from zerofs.pack.tree import Node, records
from zerofs.store.ranged import RangedStores

CODECS = {
    "rocksdb": Codec.SHA256_XXTEA,
    "sqlite": Codec.BLAKE2B128_XXTEA,
    "fl": Codec.BLAKE2B256_AESGCM,
}


class Source(Protocol):
    """Where a tree comes from: :class:`DirectorySource` or :class:`TarSource`."""

    def read(self, pipeline: Pipeline, progress: Progress) -> Node: ...


class Totals(NamedTuple):
    """What a flist holds."""

    entries: dict[Kind, int]  # names by kind, the root included
    size: int  # bytes of all files


class Report(NamedTuple):
    """What a run did."""

    totals: Totals
    counters: Counters
    losses: dict[Loss, Count]


def pack(
    source: Source,
    flist: Path,
    format: str,
    stores: RangedStores,
    losses: Losses,
    progress: Progress,
    *,
    published: Publication,
    workers: int,
) -> Report:
    """Pack `source` into `flist`.  Raises ZerofsError; then there is no new flist."""
    check_destination(flist)
    stores.check()  # a store that cannot be used is known before the work
    with Pool(workers) as pool:
        pipeline = Pipeline(CODECS[format], stores, pool)
        root = source.read(pipeline, progress)
        references = pipeline.finish()
    totals = write_flist(flist, format, records(root, references), published)
    return Report(totals, pipeline.counters, losses.counts())


def write_flist(flist: Path, format: str, tree: Tree, published: Publication) -> Totals:
    """Write `tree` as the flist `flist`, which appears when it is whole.  Raises ZerofsError, OSError."""
    entries = dict.fromkeys(Kind, 0)
    entries[Kind.DIR] = 1
    size = 0
    writer: FlistWriter | None = None
    try:
        with uninterrupted():  # or nobody would know of the directory that it has made
            writer = open_writer(format, flist)
        for path, directory in tree:
            writer.add(path, directory)
            for entry in directory.entries:
                entries[entry.kind] += 1
                size += entry.size if entry.kind is Kind.FILE else 0
        writer.finish(published.router, published.routes)
    except BaseException:
        if writer is not None:
            writer.abort()
        raise
    return Totals(entries, size)


def check_destination(flist: Path) -> None:
    """Refuse early what the writer would refuse after the content is stored.  Raises DestinationError."""
    parent = flist.absolute().parent
    if flist.is_dir():
        raise DestinationError(f"{flist} is a directory", hint="name the file that the flist becomes")
    if not parent.is_dir():
        raise DestinationError(f"{parent}: there is no such directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DestinationError(f"{parent}: may not be written to")
