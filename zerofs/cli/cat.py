"""`zerofs cat`: the bytes of files of a flist, verified, on standard output."""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import TYPE_CHECKING

from zerofs.cli import options, output
from zerofs.errors import PathNotInFlistError

if TYPE_CHECKING:
    from zerofs.flist.index import Index
    from zerofs.pack.contents import Contents

AHEAD = 8  # chunks asked for at a time

EPILOG = """\
examples:
  zerofs cat rootfs.flist /etc/os-release
  zerofs cat --storage-url redis://cache.example image.flist /etc/passwd /etc/group

Symbolic links are followed within the flist.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_flist(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file in the flist")
    options.add_flist_options(parser)
    options.add_storage_options(parser)


def run(args: argparse.Namespace) -> int:
    output.set_up(debug=args.debug)
    with options.opened_flist(args) as flist:
        rows = [_file(flist.index, argument) for argument in args.paths]
        with options.opened_contents(args, flist) as contents:
            for argument, row in zip(args.paths, rows, strict=True):
                _write(flist.index, row, argument, contents)
    return 0


def _file(index: Index, argument: str) -> int:
    from zerofs.cli import entries
    from zerofs.flist.model import Kind

    path = output.path_argument(argument)
    row = entries.find(index, path)
    kind = index.node(row).kind
    if kind is not Kind.FILE:
        raise PathNotInFlistError(f"{output.shown(path)}: is a {kind.noun}, not a file", hint="")
    return row


def _write(index: Index, row: int, path: str, contents: Contents) -> None:
    from zerofs.pack.contents import cut, pieces

    waiting = pieces(index, row, path)
    while batch := list(itertools.islice(waiting, AHEAD)):
        chunks = contents.read([index.chunk(piece.chunk) for piece in batch])
        for piece, content in zip(batch, chunks, strict=True):
            sys.stdout.buffer.write(cut(piece, content, path))
