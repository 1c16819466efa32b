"""What a router is made of: layers of pools, each pool a list of ranges and where they are held.

Plain records, so that a mount without a router file need not import a YAML parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from zerofs.store.ranges import EVERYTHING, IdRange
from zerofs.store.url import StoreUrl


class UnusableUrl(NamedTuple):
    """A destination that cannot be asked; the chunks that nothing else routes fail with `reason`."""

    display: str
    reason: str


class Rule(NamedTuple):
    """The ids of a range are held by one store."""

    ids: IdRange
    url: StoreUrl | UnusableUrl


class RouterConfig(NamedTuple):
    """One router file, or what stands for one.  Its pool names mean nothing outside of it."""

    origin: str
    pools: Mapping[str, tuple[Rule, ...]]
    lookup: tuple[str, ...]  # pools in the order in which they are asked
    cache: tuple[str, ...] = ()  # pools that get what came from any other


def single_layer(origin: str, url: StoreUrl) -> RouterConfig:
    """A layer that asks one store for everything."""
    return RouterConfig(origin, {origin: (Rule(EVERYTHING, url),)}, (origin,))
