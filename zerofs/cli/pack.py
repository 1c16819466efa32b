"""`zerofs pack`: a directory or a tar becomes a flist, its content becomes chunks in stores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerofs.cli import options, output
from zerofs.cli.parser import given, path
from zerofs.errors import SourceError
from zerofs.interruption import interruptible

if TYPE_CHECKING:
    from zerofs.pack.losses import Losses
    from zerofs.pack.packer import Report, Source
    from zerofs.store.ranged import RangedStore

FORMATS = ("rocksdb", "sqlite", "fl")

EPILOG = f"""\
examples:
  zerofs pack --store dir:///srv/chunks ./rootfs rootfs.flist
  zerofs pack --store redis://cache.example:6379 rootfs.tar.xz rootfs.flist
  docker export CONTAINER | zerofs pack --store @stores.txt - image.flist
  zerofs pack --store 00-7f=zdb://a.example --store 80-ff=zdb://b.example ./rootfs rootfs.flist

Each store whose range matches a chunk's id gets the chunk; a store without a range gets all.  Stores are
asked first what they have.  Passwords go to the stores only: the flist names them without.  To keep
them off the command line give --store @FILE, one URL a line, or set {options.STORE_VARIABLE}.

What a flist cannot hold is counted and named at the end: hard links, extended attributes, file
capabilities, access control lists, holes of sparse files, fractions of seconds.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "source", metavar="SOURCE", type=given, help="directory, tar (also gzip, bzip2, xz), or - for stdin"
    )
    parser.add_argument("flist", metavar="FLIST", type=path, help="the file to write")
    parser.add_argument("--format", choices=FORMATS, default="rocksdb", help="generation (default rocksdb)")
    parser.add_argument(
        "--store",
        action="append",
        metavar="[RANGE=]URL",
        help="where chunks go, as 00-7f=redis://host; may appear many times",
    )
    parser.add_argument("--no-router", action="store_true", help="do not name the stores in the flist")
    parser.add_argument(
        "--one-file-system", "-x", action="store_true", help="take other file systems as empty directories"
    )
    options.add_timeout(parser, "a batch of chunks at one store")
    options.add_jobs(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from zerofs.cli.progress import shown_progress
    from zerofs.pack.destinations import Publication, publication
    from zerofs.pack.losses import Losses
    from zerofs.pack.packer import pack
    from zerofs.store.ranged import RangedStores

    output.set_up(debug=args.debug)
    stores = options.ranged_stores(args.store, "--store")
    published = Publication() if args.no_router else publication(args.format, stores)
    losses = Losses(args.format)
    with (
        interruptible(),
        _source(args, stores, losses) as source,
        shown_progress("packing", silent=args.json) as progress,
    ):
        report = pack(
            source,
            args.flist,
            args.format,
            RangedStores(stores, timeout=args.timeout),
            losses,
            progress,
            published=published,
            workers=options.jobs(args),
        )
    if args.json:
        output.say_json(_as_json(args, report, stores))
    else:
        _show(args, report)
    return 0


@contextmanager
def _source(args: argparse.Namespace, stores: list[RangedStore], losses: Losses) -> Iterator[Source]:
    from zerofs.pack.destinations import directories
    from zerofs.pack.directory import DirectorySource
    from zerofs.pack.tar import TarSource

    if args.source == "-":
        yield TarSource(sys.stdin.buffer, "standard input", losses)
    elif Path(args.source).is_dir():
        yield DirectorySource(
            Path(args.source),
            losses,
            leave_out=(args.flist, *directories(stores)),
            one_file_system=args.one_file_system,
        )
    else:
        try:
            stream = Path(args.source).open("rb")  # noqa: SIM115 - closed below
        except OSError as error:
            raise SourceError(
                f"{args.source}: {error.strerror}",
                hint="name a directory, a tar, or - for a tar on standard input",
            ) from error
        with stream:
            yield TarSource(stream, args.source, losses)


def _show(args: argparse.Namespace, report: Report) -> None:
    counters = report.counters
    names = sum(report.totals.entries.values())
    output.say(
        f"{args.flist}: {names:,} names, {output.size(report.totals.size)} in files, format {args.format}"
    )
    output.say(
        f"{counters.unique:,} distinct chunks of {counters.chunks:,}, {output.size(counters.unique_size)} of "
        f"{output.size(counters.size)}"
    )
    output.say(
        f"{counters.sent:,} sent ({output.size(counters.sent_size)} encoded), "
        f"{counters.present:,} were in the store already"
    )
    for loss, count in report.losses.items():
        examples = output.examples(count.examples, count.number)
        output.warn(f"{count.number:,} × {loss.meaning} ({examples})")


def _as_json(args: argparse.Namespace, report: Report, stores: list[RangedStore]) -> dict[str, Any]:
    counters = report.counters
    return {
        "flist": str(args.flist),
        "flist_bytes": args.flist.stat().st_size,
        "format": args.format,
        "entries": output.kinds(report.totals.entries),
        "bytes": report.totals.size,
        "chunks": {
            "referenced": counters.chunks,
            "distinct": counters.unique,
            "distinct_bytes": counters.unique_size,
            "sent": counters.sent,
            "sent_payload_bytes": counters.sent_size,
            "present": counters.present,
        },
        "stores": [{"first": ids.first, "last": ids.last, "url": url.published} for ids, url in stores],
        "losses": {
            loss.label: {"count": count.number, "examples": [output.text(path) for path in count.examples]}
            for loss, count in report.losses.items()
        },
    }
