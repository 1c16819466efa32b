"""`zerofs ls`: directories of a flist, in the form of ``ls -ln``.  Fetches nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from zerofs.cli import options, output

if TYPE_CHECKING:
    from zerofs.flist.index import Index

EPILOG = """\
examples:
  zerofs ls rootfs.flist
  zerofs ls rootfs.flist /etc /usr/bin/python3
  zerofs ls -R --json https://hub.example/image.flist

Owners are numbers: their names belong to the image.  Control characters in names are shown as \\x1b.
"""

Row = tuple[bytes, int]  # a path as it is shown, and its row


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_flist(parser)
    parser.add_argument("paths", metavar="PATH", nargs="*", default=["/"], help="what to list (default /)")
    parser.add_argument("-R", "--recursive", action="store_true", help="everything below, too")
    parser.add_argument("-d", "--directory", action="store_true", help="directories themselves")
    options.add_flist_options(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    output.set_up(debug=args.debug)
    with options.opened_flist(args) as flist:
        groups = _groups(args, flist.index)
        if args.json:
            output.say_json(_as_json(flist.index, groups))
        else:
            _show(flist.index, groups)
    return 0


def _groups(args: argparse.Namespace, index: Index) -> list[tuple[bytes | None, list[Row]]]:
    """(directory, its rows) in the order of the output; the directory is None for paths named themselves."""
    from zerofs.cli import entries

    named: list[Row] = []
    pending: list[Row] = []
    for argument in args.paths:
        path = output.path_argument(argument)
        row = entries.find(index, path, follow=not args.directory)
        is_listed = entries.is_directory(index, row) and not args.directory
        (pending if is_listed else named).append((path.strip(b"/"), row))
    groups: list[tuple[bytes | None, list[Row]]] = [(None, named)] if named else []
    pending.reverse()
    while pending:
        path, row = pending.pop()
        rows = entries.children(index, row, path)
        groups.append((path, rows))
        if args.recursive:
            prefix = path + b"/" if path else b""
            pending += [
                (prefix + name, child) for name, child in reversed(rows) if entries.is_directory(index, child)
            ]
    return groups


def _as_json(index: Index, groups: list[tuple[bytes | None, list[Row]]]) -> list[dict[str, Any]]:
    from zerofs.cli.entries import as_json

    return [
        as_json(index, row, directory + b"/" + name if directory else name)
        for directory, rows in groups
        for name, row in rows
    ]


def _show(index: Index, groups: list[tuple[bytes | None, list[Row]]]) -> None:
    for number, (directory, rows) in enumerate(groups):
        if number:
            output.say()
        if directory is not None and len(groups) > 1:
            output.say(f"{output.shown(directory) or '.'}:")
        table = [_line(index, name, row) for name, row in rows]
        widths = [max((len(line[column]) for line in table), default=0) for column in range(5)]
        for line in table:
            columns = [text.rjust(width) for text, width in zip(line, widths, strict=False)]
            output.say(" ".join((*columns, *line[5:])))


def _line(index: Index, name: bytes, row: int) -> tuple[str, ...]:
    """Mode, links, owner, group, size or device, time, name."""
    from zerofs.cli import entries
    from zerofs.flist.model import Kind

    node = index.node(row)
    is_device = node.kind in (Kind.CHARDEV, Kind.BLOCK)
    size = "{},{}".format(*node.device) if is_device else str(node.size)
    shown = output.shown(name) or "."
    if node.kind is Kind.LINK:
        shown += " -> " + output.shown(index.target(row))
    return (
        entries.mode_text(node),
        str(node.nlink),
        str(node.uid),
        str(node.gid),
        size,
        entries.time_text(node.mtime),
        shown,
    )
