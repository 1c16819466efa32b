"""Merges what says where chunks are into one router: top first, pool names kept apart.

The order is: the local router file, those of the flists, the routes that stand in flists' metadata,
``--storage-url`` as the last resort.  Where there is none of these the configuration file's store is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zerofs.errors import StoreConfigError
from zerofs.flist.model import Route
from zerofs.store.config import default_storage
from zerofs.store.layers import RouterConfig, Rule, UnusableUrl, single_layer
from zerofs.store.ranges import IdRange
from zerofs.store.router import Router
from zerofs.store.url import StoreUrl, parse_store_url, redact


def build_router(
    local_router: Path | None,
    flist_routers: Sequence[tuple[str, bytes]],
    flist_routes: Sequence[Route],
    storage_url: str | None,
) -> Router:
    """The router of a mount.  `flist_routers` are (origin, text of ``router.yaml``), top first.

    Raises StoreConfigError with the faults of all files together.
    """
    layers: list[RouterConfig] = []
    faults: list[str] = []
    for origin, text in (*_local(local_router, faults), *flist_routers):
        _add_router(layers, faults, origin, text)
    if flist_routes:
        layers.append(_routes_layer(flist_routes))
    if storage_url is not None:
        try:
            layers.append(single_layer("--storage-url", parse_store_url(storage_url)))
        except StoreConfigError as fault:
            faults.append(str(fault))
    if faults:
        raise StoreConfigError("; ".join(faults))
    return Router(layers or [single_layer("default", default_storage())])


def _local(path: Path | None, faults: list[str]) -> list[tuple[str, bytes]]:
    if path is None:
        return []
    try:
        return [(str(path), path.read_bytes())]
    except OSError as fault:
        faults.append(f"{path}: {fault.strerror}")
        return []


def _add_router(layers: list[RouterConfig], faults: list[str], origin: str, text: bytes) -> None:
    from zerofs.store.routerfile import parse_router  # brings a YAML parser along, 20 ms

    try:
        layers.append(parse_router(text, origin))
    except StoreConfigError as fault:
        faults.append(str(fault))


def _routes_layer(routes: Sequence[Route]) -> RouterConfig:
    rules = tuple(_route_rule(route) for route in routes if 0 <= route.start <= route.end <= 255)
    return RouterConfig("flist", {"routes": rules}, ("routes",))


def _route_rule(route: Route) -> Rule:
    """A route that cannot be used fails only the chunks that nothing else routes."""
    url: StoreUrl | UnusableUrl
    try:
        url = parse_store_url(route.url)
    except StoreConfigError as fault:
        url = UnusableUrl(redact(route.url), str(fault))
    return Rule(IdRange(f"{route.start:02x}", f"{route.end:02x}"), url)
