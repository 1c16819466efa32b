"""Stores that are written to, each with the range of ids that it takes: ``--store [00-7f=]URL``.

A chunk goes to every store whose range holds its id.  Used by packing and copying; thread-safe, as the
stores are: several threads may ask and put at once.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from zerofs.errors import StoreConfigError, StoreReadOnlyError, StoreUnreachableError
from zerofs.store.backoff import Backoff
from zerofs.store.base import Payload, Store, open_store
from zerofs.store.ids import id_digits
from zerofs.store.ranges import EVERYTHING, IdRange, parse_range, uncovered
from zerofs.store.url import WEB_SCHEMES, StoreUrl, parse_store_url, redact

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

FIRST_PATIENCE = 10.0  # seconds for a store that nothing was asked of yet: it is more likely wrong than busy
_SILENCE = 10.0  # seconds between two lines about one store
_RANGED = re.compile(r"([^=/]*)=(.*)\Z", re.DOTALL)


class RangedStore(NamedTuple):
    """One ``--store``: it takes the ids of a range."""

    ids: IdRange
    url: StoreUrl


def parse_ranged_store(text: str) -> RangedStore:
    """Read ``URL`` or ``00-7f=URL``.  Raises StoreConfigError."""
    ranged = _RANGED.match(text)
    if ranged is None:
        return RangedStore(EVERYTHING, parse_store_url(text))
    try:
        ids = parse_range(ranged[1].replace("-", ":", 1))
    except ValueError as fault:
        raise StoreConfigError(f"store {redact(text)}: {fault}, as in 00-7f=redis://host") from None
    return RangedStore(ids, parse_store_url(ranged[2]))


class RangedStores:
    """The stores of one ``pack``.  Every hex id has a place, or making this fails."""

    def __init__(self, stores: Sequence[RangedStore], *, timeout: float = 30.0) -> None:
        """`timeout`: seconds that a call may take, retries after connection trouble included.

        Raises StoreConfigError where a range of ids has no store, StoreReadOnlyError for a web server.
        """
        gap = uncovered([store.ids for store in stores])
        if gap is not None:
            raise StoreConfigError(
                f"no store takes the chunks whose ids begin with {gap.first} to {gap.last}"
            )
        for _, url in stores:
            if url.scheme in WEB_SCHEMES:
                raise StoreReadOnlyError(f"{url.display}: a web server is only read")
        self._stores = tuple(dict.fromkeys(stores))
        self._timeout = timeout
        self._never = threading.Event()
        self._told: dict[str, float] = {}  # store → when its trouble is told again
        self._lock = threading.Lock()  # around the line above

    def check(self) -> None:
        """Ask each store something.  Raises StoreError where one cannot be used, and that soon."""
        probes = [b"%02x" % first + b"0" * 62 for first in range(256)]  # ids that nobody has, for every range
        for store, ids_of_store in self._by_store(probes, lambda chunk_id: chunk_id):
            self._insist(store, store.exists_many, ids_of_store, min(self._timeout, FIRST_PATIENCE))

    def missing(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of `ids`, in order and each once, that some store which takes them lacks."""
        lacking: set[bytes] = set()
        for store, ids_of_store in self._by_store(list(dict.fromkeys(ids)), lambda chunk_id: chunk_id):
            there = self._insist(store, store.exists_many, ids_of_store, self._timeout)
            lacking.update(chunk_id for chunk_id, found in zip(ids_of_store, there, strict=True) if not found)
        return [chunk_id for chunk_id in dict.fromkeys(ids) if chunk_id in lacking]

    def put_many(self, items: Sequence[tuple[bytes, Payload]]) -> None:
        """Put each (id, payload) into every store that takes it.  Raises StoreError when one cannot."""
        for store, items_of_store in self._by_store(items, lambda item: item[0]):
            self._insist(store, store.put_many, items_of_store, self._timeout)

    def router_yaml(self, pool_name: str) -> bytes:
        """The ``router.yaml`` of a flist whose chunks are here, without passwords.

        Stores of one range would be one key twice, which some readers take for an overwrite: the further
        ones spell the same range with more digits.
        """
        taken: set[IdRange] = set()
        lines = ["pools:", f"  {json.dumps(pool_name)}:"]
        for ids, url in self._stores:
            while ids in taken:
                ids = IdRange(ids.first + "0", ids.last + "f")
            taken.add(ids)
            lines.append(f'    "{ids}": {json.dumps(url.published)}')
        lines.append(f"lookup: [{json.dumps(pool_name)}]")
        return "\n".join(lines).encode() + b"\n"

    def close(self) -> None:
        """Drop idle connections."""
        for _, url in self._stores:
            open_store(url).close()

    def _by_store(self, things: Sequence[T], id_of: Callable[[T], bytes]) -> list[tuple[Store, list[T]]]:
        digits = [id_digits(id_of(thing)) for thing in things]
        parts: list[tuple[Store, list[T]]] = []
        for ids, url in self._stores:
            part = [thing for thing, each in zip(things, digits, strict=True) if ids.matches(each)]
            if part:
                parts.append((open_store(url), part))
        return parts

    def _insist(self, store: Store, ask: Callable[[list[T], float], R], things: list[T], timeout: float) -> R:
        """Ask `store`, again after connection trouble, until the time is up."""
        deadline = time.monotonic() + timeout
        backoff = Backoff()
        while True:
            try:
                return ask(things, deadline)
            except StoreUnreachableError as fault:
                if time.monotonic() < deadline:
                    self._tell(store, fault, timeout)
                if not backoff.wait(deadline, self._never):
                    raise

    def _tell(self, store: Store, fault: StoreUnreachableError, timeout: float) -> None:
        """Whoever waits is to know what for; several threads meet the same trouble."""
        now = time.monotonic()
        with self._lock:
            if now < self._told.get(store.display, 0.0):
                return
            self._told[store.display] = now + _SILENCE
        log.warning("%s; trying again, for %.0f s at most", fault, timeout)
