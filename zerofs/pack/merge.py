"""Several flists laid over each other and written as one.

Role: `zerofs merge`.  The tree is that of a mount of the same flists: the last one on top.  Chunks keep
their ids and keys, so nothing is fetched; the routers follow each other as in a mount, first things
first.  Stateless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from zerofs.errors import FlistCorruptError, StoreConfigError, UsageError
from zerofs.flist.layers import LayeredReader
from zerofs.flist.load import LoadedFlist
from zerofs.flist.model import CHUNK_SIZE, Directory, Kind, Tree
from zerofs.pack.destinations import Publication, route
from zerofs.store.layers import Rule
from zerofs.store.ranges import IdRange
from zerofs.store.routerfile import parse_router
from zerofs.store.url import StoreUrl, parse_store_url

ROUTES = "routes"  # the pool that the routes of a fungi flist become


class Routing(NamedTuple):
    """Routers merged: pools under names of their own, and where chunks are looked for and kept."""

    pools: dict[str, list[tuple[IdRange, str]]]  # ranges and published URLs
    lookup: list[str]
    cache: list[str]


def merged_tree(layers: Sequence[LoadedFlist], format: str) -> Tree:
    """Every directory of the union, parents first, as a writer of `format` takes it.

    Raises FlistCorruptError for a directory without a record, UsageError for what `format` cannot hold.
    """
    reader = LayeredReader([layer.index for layer in layers])
    pending = [(b"", reader.root())]
    while pending:
        path, key = pending.pop()
        directory = reader.directory(key)
        if directory is None:
            raise FlistCorruptError(f"{_shown(path)}: a flist has no record of this directory")
        if format == "fl":
            _check_blocks(path, directory)
        yield path, directory
        prefix = path + b"/" if path else b""
        pending += [(prefix + entry.name, entry.key) for entry in directory.entries if entry.kind is Kind.DIR]


def merged_routing(layers: Sequence[LoadedFlist]) -> Routing:
    """The routers of all `layers`, in the order given.  Raises StoreConfigError."""
    routing = Routing({}, [], [])
    for layer in layers:
        if layer.router is not None:
            config = parse_router(layer.router, layer.argument)
            names = {
                pool: _add_pool(routing, pool, [_published(rule) for rule in rules])
                for pool, rules in config.pools.items()
            }
            _extend(routing.lookup, [names[pool] for pool in config.lookup])
            _extend(routing.cache, [names[pool] for pool in config.cache])
        if layer.routes:
            routes = [
                (IdRange(f"{each.start:02x}", f"{each.end:02x}"), _without_password(each.url))
                for each in layer.routes
            ]
            _extend(routing.lookup, [_add_pool(routing, ROUTES, routes)])
    return routing


def merged_publication(routing: Routing, format: str) -> Publication:
    """What a flist of `format` says of `routing`.  Raises UsageError where it cannot.

    A fungi flist has no cache pools; a router file names no store of a scheme that is not supported, see
    :func:`unsupported`.
    """
    if format == "fl":
        return Publication(
            routes=[route(ids, url) for pool in routing.lookup for ids, url in routing.pools[pool]]
        )
    pools = {
        name: kept
        for name, rules in routing.pools.items()
        if (kept := [(ids, url) for ids, url in rules if _is_supported(url)])
    }
    lookup = [name for name in routing.lookup if name in pools]
    cache = [name for name in routing.cache if name in pools]
    return Publication(router=_router_text(pools, lookup, cache) if lookup else None)


def unsupported(routing: Routing) -> list[str]:
    """The URLs that only the routes of a fungi flist can hold."""
    return sorted({url for rules in routing.pools.values() for _, url in rules if not _is_supported(url)})


def _router_text(
    pools: Mapping[str, list[tuple[IdRange, str]]], lookup: Sequence[str], cache: Sequence[str]
) -> bytes:
    lines = ["pools:"]
    for pool, rules in pools.items():
        lines.append(f"  {json.dumps(pool)}:")
        lines += [f'    "{ids}": {json.dumps(url)}' for ids, url in rules]
    lines.append(f"lookup: {json.dumps(lookup)}")
    if cache:
        lines.append(f"cache: {json.dumps(cache)}")
    return ("\n".join(lines) + "\n").encode()


def _add_pool(routing: Routing, name: str, rules: list[tuple[IdRange, str]]) -> str:
    """The name under which `rules` are among the pools: their own, or one made of it."""
    for candidate in _names(name):
        if routing.pools.setdefault(candidate, rules) == rules:
            return candidate
    raise AssertionError("there is always one more name")


def _names(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _published(rule: Rule) -> tuple[IdRange, str]:
    return rule.ids, rule.url.published if isinstance(rule.url, StoreUrl) else rule.url.display


def _without_password(url: str) -> str:
    """The URL of a route as it may be published; of a scheme that is not supported without its user part."""
    try:
        return parse_store_url(url).published
    except StoreConfigError:
        return re.sub(r"://.*@", "://", url, flags=re.DOTALL)


def _is_supported(url: str) -> bool:
    try:
        parse_store_url(url)
    except StoreConfigError:
        return False
    return True


def _extend(names: list[str], more: Sequence[str]) -> None:
    names += [name for name in more if name not in names]


def _check_blocks(path: bytes, directory: Directory) -> None:
    for entry in directory.entries:
        if entry.kind is Kind.FILE and entry.block_size != CHUNK_SIZE:
            place = _shown(path + b"/" + entry.name)
            raise UsageError(
                f"{place}: has chunks of {entry.block_size} bytes, which the format fl cannot say",
                hint="choose another --format",
            )


def _shown(path: bytes) -> str:
    return ascii(path.decode("utf-8", "surrogateescape"))
