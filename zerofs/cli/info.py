"""`zerofs info`: what a flist is and holds, and where its chunks are.  Fetches nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from zerofs.cli import options, output
from zerofs.errors import StoreConfigError

if TYPE_CHECKING:
    from zerofs.flist.load import LoadedFlist

EPILOG = """\
examples:
  zerofs info rootfs.flist
  zerofs info --json rootfs.flist | jq .content_hash

The content hash names the tree: equal trees have equal ones, whatever the container.  Passwords in
routers are not shown.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_flist(parser)
    options.add_flist_options(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    output.set_up(debug=args.debug)
    with options.opened_flist(args) as flist:
        value = _describe(flist)
    if args.json:
        output.say_json(value)
    else:
        _show(value)
    return 0


def _describe(flist: LoadedFlist) -> dict[str, Any]:
    from zerofs.flist.arrays import arrays
    from zerofs.flist.model import Kind

    index = flist.index
    nodes, refs, chunks = arrays(index)
    kinds = nodes["mode"] & 0o170000
    sizes = chunks["size"].astype("u8")  # their sum may be beyond 4 GiB
    return {
        "flist": flist.argument,
        "format": flist.format,
        "content_hash": index.content_hash.hex(),
        "entries": output.kinds({kind: int((kinds == kind).sum()) for kind in Kind}),
        "bytes": index.total_size,
        "chunks": {
            "distinct": len(chunks),
            "distinct_bytes": int(sizes.sum()),
            "used": len(refs),
            "used_bytes": int(sizes[refs].sum()),
        },
        "router": _router(flist),
        "routes": [
            {"first": f"{route.start:02x}", "last": f"{route.end:02x}", "url": _display(route.url)}
            for route in flist.routes
        ],
    }


def _router(flist: LoadedFlist) -> dict[str, Any] | None:
    """The router file without passwords; or its faults, which do not keep the rest from being shown."""
    from zerofs.store.routerfile import parse_router

    if flist.router is None:
        return None
    try:
        config = parse_router(flist.router, "router.yaml")
    except StoreConfigError as error:
        return {"error": str(error)}
    return {
        "pools": {
            name: [{"range": str(rule.ids), "url": rule.url.display} for rule in rules]
            for name, rules in config.pools.items()
        },
        "lookup": list(config.lookup),
        "cache": list(config.cache),
    }


def _display(url: str) -> str:
    from zerofs.store.url import parse_store_url, redact

    try:
        return parse_store_url(url).display
    except StoreConfigError:
        return redact(url)


def _show(value: dict[str, Any]) -> None:
    held = ", ".join(f"{number:,} {kind}" for kind, number in value["entries"].items() if number)
    chunks = value["chunks"]
    output.say(f"flist:   {value['flist']}")
    output.say(f"format:  {value['format']}")
    output.say(f"content: {value['content_hash']}")
    output.say(f"names:   {sum(value['entries'].values()):,} ({held})")
    output.say(f"size:    {output.size(value['bytes'])} in files")
    output.say(f"chunks:  {chunks['distinct']:,} distinct, {output.size(chunks['distinct_bytes'])}")
    if saved := chunks["used_bytes"] - chunks["distinct_bytes"]:
        output.say(f"         {chunks['used']:,} uses: {output.size(saved)} are there more than once")
    router = value["router"]
    if router is None and not value["routes"]:
        output.say("stores:  none named")
    elif router is not None and "error" in router:
        output.say(f"stores:  unreadable: {router['error']}")
    elif router is not None:
        for name in router["lookup"]:
            kept = ", kept there" if name in router["cache"] else ""
            output.say(f"pool:    {name}{kept}")
            for rule in router["pools"][name]:
                output.say(f"           {rule['range']} {rule['url']}")
    for route in value["routes"]:
        output.say(f"route:   {route['first']}:{route['last']} {route['url']}")
