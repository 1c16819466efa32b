"""What a packed flist says of the stores that took its chunks, without passwords.

Role: the router file of the RocksDB and SQLite generations, the routes of a fungi flist.  Stateless.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zerofs.errors import UsageError
from zerofs.flist.model import Route
from zerofs.store.ranged import RangedStore, RangedStores
from zerofs.store.ranges import IdRange

POOL = "main"  # the one pool of a router that pack writes
_ROUTE_DIGITS = 2  # a fungi route compares the first byte


class Publication(NamedTuple):
    """What the flist says of its stores: a router file, or the routes of a fungi flist; or nothing."""

    router: bytes | None = None
    routes: Sequence[Route] = ()


def publication(format: str, stores: Sequence[RangedStore]) -> Publication:
    """How a flist of `format` leads its readers to `stores`.  Raises UsageError where it cannot."""
    if format == "fl":
        return Publication(routes=[route(ids, url.published) for ids, url in stores])
    return Publication(router=RangedStores(stores).router_yaml(POOL))


def route(ids: IdRange, url: str) -> Route:
    """A range as a fungi route.  Raises UsageError where it is finer than the first byte of an id."""
    first, last = ids.first.ljust(_ROUTE_DIGITS, "0"), ids.last.ljust(_ROUTE_DIGITS, "f")
    if not _is_coarse(first, last):
        raise UsageError(
            f"the format fl routes by the first byte of an id: {ids} is finer",
            hint="give ranges of two digits, such as 00-7f=, or another --format",
        )
    return Route(int(first[:_ROUTE_DIGITS], 16), int(last[:_ROUTE_DIGITS], 16), url)


def directories(stores: Sequence[RangedStore]) -> list[Path]:
    """Where those of `stores` are that are directories of this host."""
    return [Path(os.fsdecode(url.path)) for _, url in stores if url.scheme == "dir"]


def _is_coarse(first: str, last: str) -> bool:
    """Whether the range begins and ends with a whole byte, however many digits it is spelt with."""
    return not first[_ROUTE_DIGITS:].strip("0") and not last[_ROUTE_DIGITS:].strip("f")
