"""Redis Cluster: one store on many servers, each of which holds some slots of the keys, with replicas.

Every request goes to the server that holds its key's slot (`scatter`); who that is, and which of them are there,
`topology` knows.  Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zerofs.errors import StoreError, StoreProtocolError
from zerofs.store.base import Found, IsNextHere, Payload, gather
from zerofs.store.connection import Command
from zerofs.store.lane import Outcome
from zerofs.store.resp import BULK, INTEGER, STATUS
from zerofs.store.scatter import Scatter
from zerofs.store.spares import Spares
from zerofs.store.topology import Topology
from zerofs.store.url import StoreUrl


class ClusterStore:
    """The cluster of which `url` names some nodes."""

    def __init__(self, url: StoreUrl) -> None:
        self.display = url.display
        self._url = url
        self._spares = Spares()
        self._topology = Topology(url, self._spares)

    def get_many(self, ids: Sequence[bytes], deadline: float) -> Iterator[Payload | None]:
        for outcome, _ in self._get(ids, deadline):
            found = self._found(outcome)
            if isinstance(found, StoreError):
                raise found
            yield found

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[list[Found]]:
        answers = self._get(ids, deadline)
        for batch in gather((self._found(outcome), is_next_here) for outcome, is_next_here in answers):
            yield batch
            for found in batch:
                self._spares.give(found)

    def is_patient(self) -> bool:
        return False

    def exists_many(self, ids: Sequence[bytes], deadline: float) -> list[bool]:
        commands = [(b"EXISTS", chunk_id) for chunk_id in ids]
        return [value != 0 for value in self._ask_masters(commands, deadline, (INTEGER,))]

    def put_many(self, items: Sequence[tuple[bytes, Payload]], deadline: float) -> None:
        self._ask_masters([(b"SET", chunk_id, payload) for chunk_id, payload in items], deadline, (STATUS,))

    def close(self) -> None:
        self._topology.close()
        self._spares.clear()

    def _get(self, ids: Sequence[bytes], deadline: float) -> Iterator[tuple[Outcome, IsNextHere]]:
        commands = [(b"GET", chunk_id) for chunk_id in ids]
        return Scatter(self._url, self._topology, commands, deadline, reading=True).answers()

    def _ask_masters(
        self, commands: Sequence[Command], deadline: float, kinds: tuple[int, ...]
    ) -> list[Payload | int | None]:
        """What the masters answer; any error ends it."""
        values: list[Payload | int | None] = []
        for outcome, _ in Scatter(self._url, self._topology, commands, deadline, reading=False).answers():
            if isinstance(outcome, StoreError):
                raise outcome
            if outcome.kind not in kinds:
                raise self._unexpected()
            values.append(outcome.value)
        return values

    def _found(self, outcome: Outcome) -> Found:
        if isinstance(outcome, StoreError):
            return outcome
        if outcome.kind != BULK or isinstance(outcome.value, int):
            return self._unexpected()
        return outcome.value

    def _unexpected(self) -> StoreProtocolError:
        return StoreProtocolError(f"{self.display}: answer of a type that was not asked for")
