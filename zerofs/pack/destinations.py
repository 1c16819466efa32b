"""Where a packed flist's chunks go, and what the flist says of it.

Role: reads ``[RANGE=]URL`` arguments, checks that every chunk id has a place, and writes the router (or the
routes of a fungi flist) that leads readers there, without passwords.  Stateless.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from zerofs.errors import StoreReadOnlyError, UsageError
from zerofs.flist.model import Route
from zerofs.store.base import Store, open_store
from zerofs.store.ids import id_digits
from zerofs.store.url import WEB_SCHEMES, parse_store_url

POOL = "main"  # the one pool of a router that pack writes
_RANGE = re.compile(r"([0-9A-Fa-f]+)(?:[-:]([0-9A-Fa-f]+))?=(.*)", re.DOTALL)
_MAX_DIGITS = 32  # of the shortest ids
_ROUTE_DIGITS = 2  # a fungi route compares the first byte


class Destination(NamedTuple):
    """A store that takes the chunks whose ids begin with `first`…`last`, inclusive."""

    first: str  # lower-case hex digits, as many as in `last`
    last: str
    store: Store
    published: str  # the URL without its password
    directory: str = ""  # of a ``dir`` store

    def takes(self, chunk_id: bytes) -> bool:
        return self.first <= id_digits(chunk_id)[: len(self.first)] <= self.last


def parse_destinations(arguments: Sequence[str]) -> list[Destination]:
    """Read the arguments of ``--store``; together they must take every id.

    Raises UsageError for a bad range or a gap, StoreConfigError for a bad URL.
    """
    destinations = [_parse(argument) for argument in arguments]
    _check_coverage(destinations)
    return destinations


def router_text(destinations: Sequence[Destination]) -> bytes:
    """The text of ``router.yaml``."""
    lines = ["pools:", f"  {POOL}:"]
    for destination in destinations:
        span = f"{destination.first}:{destination.last}".upper()
        lines.append(f'    "{span}": {json.dumps(destination.published)}')
    lines.append(f"lookup: [{POOL}]")
    return ("\n".join(lines) + "\n").encode()


def routes(destinations: Sequence[Destination]) -> list[Route]:
    """The routes of a fungi flist.  Raises UsageError for a range finer than a byte."""
    for destination in destinations:
        if len(destination.first) > _ROUTE_DIGITS:
            span = f"{destination.first}-{destination.last}"
            raise UsageError(
                f"--format fl routes by the first byte of an id: {span} is finer",
                hint="give ranges of two digits, such as 00-7f=",
            )
    return [
        Route(
            int(destination.first.ljust(_ROUTE_DIGITS, "0"), 16),
            int(destination.last.ljust(_ROUTE_DIGITS, "f"), 16),
            destination.published,
        )
        for destination in destinations
    ]


def _parse(argument: str) -> Destination:
    first, last, text = "00", "ff", argument
    if match := _RANGE.fullmatch(argument):
        first, text = match[1].lower(), match[3]
        last = (match[2] or first).lower()
    url = parse_store_url(text)
    shown = f"--store {first}-{last}={url.display}"
    if len(first) != len(last):
        raise UsageError(f"{shown}: the ends of a range have equally many digits")
    if len(first) > _MAX_DIGITS:
        raise UsageError(f"{shown}: ids may have fewer digits than that")
    if first > last:
        raise UsageError(f"{shown}: the range ends before it begins")
    if url.scheme in WEB_SCHEMES:
        raise StoreReadOnlyError(f"{url.display} takes no writes", hint="a web server only gives chunks out")
    directory = os.fsdecode(url.path) if url.scheme == "dir" else ""
    return Destination(first, last, open_store(url), url.published, directory)


def _check_coverage(destinations: Sequence[Destination]) -> None:
    digits = max((len(destination.first) for destination in destinations), default=1)
    spans = sorted(
        (int(destination.first.ljust(digits, "0"), 16), int(destination.last.ljust(digits, "f"), 16))
        for destination in destinations
    )
    covered = 0  # every number below it has a place
    for first, last in [*spans, (16**digits, 16**digits)]:
        if first > covered:
            raise UsageError(
                f"no --store takes the ids from {covered:0{digits}x} to {first - 1:0{digits}x}",
                hint="give one more store, or one without a range, which takes all",
            )
        covered = max(covered, last + 1)
