"""`zerofs store check`: prove that all chunks of a flist can be had, before somebody mounts it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zerofs.cli import options, output
from zerofs.errors import ZerofsError
from zerofs.interruption import interruptible

if TYPE_CHECKING:
    from zerofs.flist.index import Index
    from zerofs.flist.model import Chunk

EPILOG = """\
examples:
  zerofs store check rootfs.flist
  zerofs store check --json rootfs.flist | jq .lacking
  zerofs store check --from redis://c.example rootfs.flist      only this store, whatever the flist says

Every chunk is fetched as a mount would fetch it, verified, and dropped.  Exit status: 0 where all can be had, 1 where
not.  What a replica lacks while another one has it is in the counts of the stores.
"""
_SHOWN = 3  # files of a chunk, for people


class _Lacking(NamedTuple):
    chunk: Chunk
    reason: str
    files: list[bytes]


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_flist(parser)
    options.add_source(parser)
    parser.add_argument(
        "--allow-unverified", action="store_true", help="take chunks that nothing can be checked against"
    )
    options.add_flist_options(parser)
    options.add_timeout(parser, "a batch of chunks")
    options.add_jobs(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Check, and say what is lacking.  Raises StoreError where a store fails that may have it."""
    from zerofs.cli.progress import shown_progress
    from zerofs.pack.check import check_chunks

    output.set_up(debug=args.debug)
    with (
        interruptible(),
        options.opened_flist(args) as flist,
        options.opened_router(args, options.source_of(args, flist)) as router,
    ):
        with shown_progress("checking", silent=args.json, unit="chunks") as progress:
            found = check_chunks(
                flist.index,
                router,
                progress,
                workers=options.jobs(args),
                timeout=args.timeout,
                allow_unverified=args.allow_unverified,
            )
        lacking = _named(flist.index, found.lacking)
        stores = router.stats()
    counts = {"chunks": found.chunks, "bytes": found.size, "payload_bytes": found.payload_size}
    if args.json:
        output.say_json(
            {**counts, "lacking": [_as_json(each) for each in lacking], "stores": _counted(stores)}
        )
    else:
        _show(counts, lacking, stores)
    return 1 if lacking else 0


def _named(index: Index, lacking: dict[Chunk, ZerofsError]) -> list[_Lacking]:
    """Each of the chunks with the files that need it."""
    from zerofs.flist.model import Kind

    files: dict[Chunk, list[bytes]] = {chunk: [] for chunk in lacking}
    for path, row in index.walk() if lacking else ():
        if index.node(row).kind is Kind.FILE:
            for chunk in {index.chunk(number) for number in index.refs(row)} & lacking.keys():
                files[chunk].append(path)
    return [_Lacking(chunk, str(error), files[chunk]) for chunk, error in lacking.items()]


def _as_json(lacking: _Lacking) -> dict[str, Any]:
    from zerofs.store.ids import id_text

    chunk, reason, files = lacking
    return {
        "id": id_text(chunk.id),
        "key": id_text(chunk.key),
        "reason": reason,
        "files": [output.text(path) for path in files],
    }


def _counted(stores: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each store gave, of all that it counts."""
    keys = ("store", "chunks", "bytes", "missing", "rejected", "errors")
    return [{key: store[key] for key in keys} for store in stores]


def _show(counts: dict[str, int], lacking: Sequence[_Lacking], stores: Iterable[dict[str, Any]]) -> None:
    for each in lacking:
        files = output.examples(each.files[:_SHOWN], len(each.files))
        output.say(f"lacking: {each.reason} (in {files})")
    for store in _counted(stores):
        trouble = "".join(
            f", {store[key]:,} {key}" for key in ("missing", "rejected", "errors") if store[key]
        )
        output.say(f"{store['store']}: {store['chunks']:,} chunks, {output.size(store['bytes'])}{trouble}")
    said = f"{len(lacking):,} cannot be had" if lacking else "all can be had"
    output.say(f"{counts['chunks']:,} chunks, {output.size(counts['bytes'])}: {said}")
