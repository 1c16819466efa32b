"""What every store can do, and the one place that opens one.

A store is shared by the whole process, per URL: connections are kept and reused by whichever thread
asks next.  All methods may be called from several threads at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from zerofs.errors import StoreError
from zerofs.store.process import PerProcess
from zerofs.store.url import CLUSTER_SCHEMES, WEB_SCHEMES, StoreUrl

MAX_BATCH = 4 * 1024 * 1024  # bytes of payloads that are handed out together; the last one may exceed it
MAX_PAYLOAD = 256 * 1024 * 1024 + 64 * 1024  # bytes; the largest chunk that a flist can name, encoded

Payload = bytes | bytearray  # an encoded chunk; nobody changes it
Found = Payload | None | StoreError  # a chunk, None where the store lacks it, or why it alone cannot be had
IsNextHere = Callable[[], bool]
F = TypeVar("F", bound=Found)


class Store(Protocol):
    """One destination.  Deadlines are values of ``time.monotonic()``.

    Failures are StoreErrors whose message begins with `display`.  StoreUnreachableError and
    StoreRefusedError concern the destination, any other StoreError the one id that is asked for.
    """

    @property
    def display(self) -> str:
        """The URL without its password."""
        ...

    def get_many(self, ids: Sequence[bytes], deadline: float) -> Iterator[Payload | None]:
        """The payload of each id in order, as they arrive; None for one that the store lacks.

        An error ends the iterator; it concerns the id whose turn it was.
        """
        ...

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[Sequence[Found]]:
        """The same, several at a time where they are there already; none waits for another.

        `patience`: where nothing has come for so many seconds an empty batch is handed out before the next
        one, if the store `is_patient`.

        A store of several parts hands out an error in place of what only a part that is gone has.
        Who asks for the next batch has done with the payloads of this one: their memory is used again.

        An error concerns the id that comes after those handed out.
        """
        ...

    def is_patient(self) -> bool:
        """Whether `get_batches` heeds its `patience` if it is called now."""
        ...

    def exists_many(self, ids: Sequence[bytes], deadline: float) -> list[bool]:
        """Whether the store holds each id."""
        ...

    def put_many(self, items: Sequence[tuple[bytes, Payload]], deadline: float) -> None:
        """Store each (id, payload).  After an error any of them may be there."""
        ...

    def close(self) -> None:
        """Drop the idle connections.  The store can still be used and connects anew."""
        ...


class _Registry:
    """The stores of one process.  `lock` guards `stores`; no store is asked anything under it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stores: dict[StoreUrl, Store] = {}


_registry = PerProcess(_Registry)


def open_store(url: StoreUrl) -> Store:
    """The store at `url`, the same object for equal URLs.  Connects when it is first asked."""
    registry = _registry.get()
    with registry.lock:
        store = registry.stores.get(url)
        if store is None:
            store = registry.stores[url] = _make(url)
        return store


def _make(url: StoreUrl) -> Store:
    # A mount imports the client of the scheme that it uses, and no other.
    if url.is_resp:
        from zerofs.store.redis import RespStore

        return RespStore(url)
    if url.scheme in CLUSTER_SCHEMES:
        from zerofs.store.cluster import ClusterStore

        return ClusterStore(url)
    if url.scheme in WEB_SCHEMES:
        from zerofs.store.web import WebStore

        return WebStore(url)
    from zerofs.store.directory import DirectoryStore

    return DirectoryStore(url)


def gather(answers: Iterable[tuple[F, IsNextHere]]) -> Iterator[list[F]]:
    """Batches for `get_batches`: each payload comes with whether the next one can be had without waiting.

    What was gathered before an error is handed out before it is raised.
    """
    batch: list[F] = []
    size = 0
    try:
        for payload, is_next_here in answers:
            batch.append(payload)
            if payload is not None and not isinstance(payload, StoreError):
                size += len(payload)
            if size >= MAX_BATCH or not is_next_here():
                yield batch
                batch, size = [], 0
    except StoreError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
