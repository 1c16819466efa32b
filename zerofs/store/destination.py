"""A store as the router sees it: opened when first asked, with a circuit breaker, a measure of its speed, counters."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence

from zerofs.errors import (
    StoreError,
    StoreProtocolError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnreachableError,
)
from zerofs.store.base import Found, Payload, Store, open_store
from zerofs.store.breaker import Breaker
from zerofs.store.latency import Latency
from zerofs.store.layers import UnusableUrl
from zerofs.store.link import Link, link_to
from zerofs.store.tally import Tally
from zerofs.store.traffic import Traffic
from zerofs.store.url import StoreUrl

_logger = logging.getLogger(__name__)

_FAIR_TRIAL = 1.0  # seconds; a shorter one that ends in a timeout says nothing about the destination


class Destination:
    """One store of a router.  Thread-safe; breaker, latency and counters have locks of their own."""

    def __init__(self, url: StoreUrl | UnusableUrl) -> None:
        self.display = url.display
        self.breaker = Breaker()
        self.latency = Latency()
        self.link = link_to(url) if isinstance(url, StoreUrl) else Link()
        self.traffic = Traffic()
        self.rejected = Tally(_logger, f"{self.display}: chunks that do not verify")
        self._url = url

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None, *, again: int = 0
    ) -> Generator[Sequence[Found]]:
        """As `Store.get_batches`, and one answer per id for certain; keeps breaker, measures and counters informed.

        `again`: for how many of the chunks this destination failed before.
        """
        started = time.monotonic()
        answered = 0
        self.latency.asked()
        self.traffic.asked(again)
        asked = self.link.begin(started)
        try:
            for batch in self._store().get_batches(ids, deadline, patience):
                if not batch:
                    yield batch
                    continue
                now = time.monotonic()
                first_after = None if answered else now - started
                if first_after is not None:
                    self.latency.answered(first_after)
                self.link.arrived(asked, now, self.traffic.answered(batch, first_after=first_after))
                answered += len(batch)
                self.breaker.succeeded()
                yield batch
            if answered != len(ids):
                raise StoreProtocolError(f"{self.display}: {answered} answers to {len(ids)} requests")
        except StoreError as fault:
            self._failed(fault, started)
            raise
        finally:
            self.link.end(asked)

    def put_many(self, items: Sequence[tuple[bytes, Payload]], deadline: float) -> None:
        """As `Store.put_many`; keeps breaker and counters informed."""
        started = time.monotonic()
        try:
            self._store().put_many(items, deadline)
        except StoreError as fault:
            self._failed(fault, started)
            raise
        self.breaker.succeeded()
        self.traffic.wrote(items)

    def stats(self) -> dict[str, object]:
        """What it did since the start; `store` is its URL without a password."""
        state = "failing" if self.breaker.is_suspect else "good"
        return {
            "store": self.display,
            "state": "passed over" if self.breaker.is_open else state,
            **self.traffic.as_dict(),
            "rejected": self.rejected.count,
        }

    def is_patient(self) -> bool:
        """As `Store.is_patient`; what cannot be asked says so at once."""
        return isinstance(self._url, UnusableUrl) or self._store().is_patient()

    def close(self) -> None:
        if isinstance(self._url, StoreUrl):
            self._store().close()

    def _store(self) -> Store:
        if isinstance(self._url, UnusableUrl):
            raise StoreRefusedError(f"{self.display}: {self._url.reason}")
        return open_store(self._url)

    def _failed(self, fault: StoreError, started: float) -> None:
        self.traffic.failed()
        if not isinstance(fault, StoreUnreachableError | StoreRefusedError):
            return  # it concerns one chunk, not the destination
        took = time.monotonic() - started
        if not isinstance(fault, StoreTimeoutError) or took >= _FAIR_TRIAL:
            self.breaker.failed()
            self.latency.failed(took)
