"""`zerofs merge`: several flists become one, as a mount of them would show it.  Fetches nothing."""

from __future__ import annotations

import argparse

from zerofs.cli import options, output
from zerofs.cli.parser import path
from zerofs.interruption import interruptible

EPILOG = """\
examples:
  zerofs merge base.flist app.flist -o image.flist
  zerofs merge --format fl base.flist https://hub.example/app.flist -o image.fl

The last flist named is on top: of a name in several, its entry wins; directories are united.  Chunks are
not touched; the routers of the flists follow each other, without passwords.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("flists", metavar="FLIST", nargs="+", help="file, unpacked directory or URL")
    parser.add_argument("-o", "--output", metavar="FILE", type=path, required=True, help="the flist to write")
    parser.add_argument(
        "--format", choices=("rocksdb", "sqlite", "fl"), help="generation (default: that of the last flist)"
    )
    parser.add_argument("--no-router", action="store_true", help="do not name the stores in the flist")
    options.add_flist_options(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from zerofs.pack.merge import merged_publication, merged_routing, merged_tree, unsupported
    from zerofs.pack.packer import check_destination, write_flist

    output.set_up(debug=args.debug)
    check_destination(args.output)
    with interruptible(), options.opened_flists(args, args.flists) as flists:
        format = args.format or flists[-1].format
        routing = merged_routing([] if args.no_router else flists)
        published = merged_publication(routing, format)
        totals = write_flist(args.output, format, merged_tree(flists, format), published)
    left_out = unsupported(routing) if format != "fl" else []
    if args.json:
        output.say_json(
            {
                "flist": str(args.output),
                "flist_bytes": args.output.stat().st_size,
                "format": format,
                "layers": args.flists,
                "entries": output.kinds(totals.entries),
                "bytes": totals.size,
                "stores_left_out": left_out,
            }
        )
        return 0
    names = sum(totals.entries.values())
    output.say(f"{args.output}: {names:,} names of {len(args.flists)} flists, format {format}")
    for url in left_out:
        output.warn(f"a router file cannot name {url}: its chunks need --storage-url")
    return 0
