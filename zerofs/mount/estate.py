"""What a flist mount leaves to the process that serves it next: as a document of JSON, and descriptors.

Place: made and taken up by `flistmount`, carried by `session`, kept by the `supervisor`, who cannot read it.  Indexes
travel as descriptors of their files: node ids are positions in them, so a successor needs neither the flist nor the
place that it came from.  Names of files are any bytes; in the document they are text, undecodable bytes escaped as
Python does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zerofs.flist.index import Index
from zerofs.flist.load import LoadedFlist, open_index_file
from zerofs.flist.model import Route
from zerofs.mount.fast_engine import Inheritance


class Stale(NamedTuple):
    """What the kernel has to forget after a swap."""

    entries: Sequence[tuple[int, bytes]]
    rows: Sequence[int]


class Estate(NamedTuple):
    """All that is needed to go on."""

    loaded: Sequence[LoadedFlist]  # of the command line
    first: Index  # that was mounted at first
    mounted: Index
    layers: Sequence[str]  # flists laid over those of the command line, live
    since: float  # time.monotonic(), which all processes share
    engine: Inheritance
    stale: Stale | None  # a swap was under way


def encode(estate: Estate, state: Path) -> tuple[dict[str, object], dict[str, int]]:
    """The document, and descriptors by name: the caller closes those that begin with ``index``."""
    indexes = list(dict.fromkeys([*(flist.index for flist in estate.loaded), estate.first, estate.mounted]))
    numbers = {index: number for number, index in enumerate(indexes)}
    engine = estate.engine
    document: dict[str, object] = {
        "flists": [_flist(flist, numbers[flist.index]) for flist in estate.loaded],
        "first": numbers[estate.first],
        "mounted": numbers[estate.mounted],
        "layers": list(estate.layers),
        "since": estate.since,
        "negotiated": engine.negotiated,
        "mount_id": engine.mount_id,
        "replaced": [[row, os.fsdecode(name), old] for (row, name), old in engine.replaced],
        "stale": None if estate.stale is None else _stale(estate.stale),
    }
    files = {"channel": engine.channel, "released": engine.released}
    files |= {f"index-{number}": open_index_file(index, state) for index, number in numbers.items()}
    return document, files


def decode(document: Mapping[str, Any], files: Mapping[str, int]) -> Estate:
    """What was encoded.  Raises FlistCorruptError where an index is damaged, or of a version that is not known."""
    count = sum(name.startswith("index-") for name in files)
    indexes = [Index.inherited(files[f"index-{number}"]) for number in range(count)]
    replaced = [((row, os.fsencode(name)), old) for row, name, old in document["replaced"]]
    stale = document["stale"]
    return Estate(
        [_loaded(flist, indexes[flist["index"]]) for flist in document["flists"]],
        indexes[document["first"]],
        indexes[document["mounted"]],
        document["layers"],
        document["since"],
        Inheritance(
            files["channel"], files["released"], document["negotiated"], document["mount_id"], replaced
        ),
        None
        if stale is None
        else Stale([(row, os.fsencode(name)) for row, name in stale["entries"]], stale["rows"]),
    )


def _stale(stale: Stale) -> dict[str, object]:
    return {"entries": [[row, os.fsdecode(name)] for row, name in stale.entries], "rows": list(stale.rows)}


def _flist(flist: LoadedFlist, index: int) -> dict[str, object]:
    router = flist.router
    return {
        "argument": flist.argument,
        "format": flist.format,
        "index": index,
        "router": None if router is None else router.decode("utf-8", "surrogateescape"),
        "routes": [list(route) for route in flist.routes],
    }


def _loaded(flist: Mapping[str, Any], index: Index) -> LoadedFlist:
    router = flist["router"]
    return LoadedFlist(
        flist["argument"],
        flist["format"],
        index,
        None if router is None else router.encode("utf-8", "surrogateescape"),
        tuple(Route(*route) for route in flist["routes"]),
    )
