"""`zerofs stat`: everything that a flist says of a path, its chunks included.  Fetches nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from zerofs.cli import options, output

if TYPE_CHECKING:
    from zerofs.flist.index import Index

EPILOG = """\
examples:
  zerofs stat rootfs.flist /usr/bin/python3
  zerofs stat --json rootfs.flist /etc/passwd | jq .[0].chunks

A symbolic link at the end of a path is described itself, not what it leads to.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_flist(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a path in the flist")
    options.add_flist_options(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from zerofs.cli import entries

    output.set_up(debug=args.debug)
    with options.opened_flist(args) as flist:
        index = flist.index
        found = []
        for argument in args.paths:
            path = output.path_argument(argument)
            row = entries.find(index, path, follow=False)
            found.append({**entries.as_json(index, row, path.strip(b"/")), **_chunks(index, row)})
            if not args.json:
                _show(index, row, path, found[-1])
        if args.json:
            output.say_json(found)
    return 0


def _chunks(index: Index, row: int) -> dict[str, Any]:
    from zerofs.flist.model import Kind
    from zerofs.store.ids import id_text

    node = index.node(row)
    if node.kind is not Kind.FILE:
        return {}
    chunks = [index.chunk(number) for number in index.refs(row)]
    return {
        "block_size": node.block_size,
        "chunks": [{"id": id_text(chunk.id), "key": id_text(chunk.key)} for chunk in chunks],
    }


def _show(index: Index, row: int, path: bytes, value: dict[str, Any]) -> None:
    from zerofs.cli import entries

    node = index.node(row)
    output.say(f"  path: {output.shown(path)}")
    output.say(f"  kind: {value['kind']}{_detail(value)}")
    output.say(f"  mode: {value['mode']} ({entries.mode_text(node)})  owner: {node.uid}:{node.gid}")
    output.say(f"  size: {node.size}  links: {node.nlink}")
    output.say(f" mtime: {entries.time_text(node.mtime)}  ctime: {entries.time_text(node.ctime)}")
    for number, chunk in enumerate(value.get("chunks", ())):
        output.say(f" chunk: {number} id {chunk['id']} key {chunk['key']}")


def _detail(value: dict[str, Any]) -> str:
    if "target" in value:
        return f" to {output.shown(value['target'].encode('utf-8', 'surrogateescape'))}"
    return f" {value['rdev']}" if "rdev" in value else ""
