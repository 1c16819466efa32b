"""A store as the router sees it: opened when it is first asked, with a circuit breaker and a measure of its speed."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence

from zerofs.errors import StoreProtocolError, StoreRefusedError, StoreTimeoutError, StoreUnreachableError
from zerofs.store.base import Found, Payload, Store, open_store
from zerofs.store.breaker import Breaker
from zerofs.store.latency import Latency
from zerofs.store.layers import UnusableUrl
from zerofs.store.tally import Tally
from zerofs.store.url import StoreUrl

_logger = logging.getLogger(__name__)

_FAIR_TRIAL = 1.0  # seconds; a shorter one that ends in a timeout says nothing about the destination


class Destination:
    """One store of a router.  Thread-safe; breaker and latency have locks of their own."""

    def __init__(self, url: StoreUrl | UnusableUrl) -> None:
        self.display = url.display
        self.breaker = Breaker()
        self.latency = Latency()
        self.rejected = Tally(_logger, f"{self.display}: chunks that do not verify")
        self._url = url

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Generator[Sequence[Found]]:
        """As `Store.get_batches`, and one answer per id for certain; keeps breaker and latency informed."""
        started = time.monotonic()
        answered = 0
        self.latency.asked()
        try:
            for batch in self._store().get_batches(ids, deadline, patience):
                if not batch:
                    yield batch
                    continue
                if not answered:
                    self.latency.answered(time.monotonic() - started)
                answered += len(batch)
                self.breaker.succeeded()
                yield batch
            if answered != len(ids):
                raise StoreProtocolError(f"{self.display}: {answered} answers to {len(ids)} requests")
        except (StoreUnreachableError, StoreRefusedError) as fault:
            self._failed(fault, started)
            raise

    def put_many(self, items: Sequence[tuple[bytes, Payload]], deadline: float) -> None:
        """As `Store.put_many`; keeps the breaker informed."""
        started = time.monotonic()
        try:
            self._store().put_many(items, deadline)
        except (StoreUnreachableError, StoreRefusedError) as fault:
            self._failed(fault, started)
            raise
        self.breaker.succeeded()

    def is_patient(self) -> bool:
        """As `Store.is_patient`."""
        return self._store().is_patient()

    def close(self) -> None:
        if isinstance(self._url, StoreUrl):
            self._store().close()

    def _store(self) -> Store:
        if isinstance(self._url, UnusableUrl):
            raise StoreRefusedError(f"{self.display}: {self._url.reason}")
        return open_store(self._url)

    def _failed(self, fault: Exception, started: float) -> None:
        took = time.monotonic() - started
        if not isinstance(fault, StoreTimeoutError) or took >= _FAIR_TRIAL:
            self.breaker.failed()
            self.latency.failed(took)
