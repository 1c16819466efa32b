"""Redis, Valkey, ARDB, 0-db: whatever answers GET, SET and EXISTS in RESP2.

The requests of a call are pipelined on one connection (see `server`).  Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zerofs.errors import StoreError, StoreProtocolError
from zerofs.store.base import Payload
from zerofs.store.connection import Command
from zerofs.store.ids import id_text
from zerofs.store.resp import BULK, ERROR, INTEGER, STATUS, Answer, answer_error
from zerofs.store.server import Server
from zerofs.store.spares import Spares
from zerofs.store.url import StoreUrl

_ZDB_MAX_VALUE = 8 * 1024 * 1024  # bytes; 0-db closes the connection on more


class RespStore:
    """A store behind a RESP2 URL."""

    def __init__(self, url: StoreUrl) -> None:
        self.display = url.display
        self._url = url
        self._spares = Spares()
        self._server = Server(url, self._spares)

    def get_many(self, ids: Sequence[bytes], deadline: float) -> Iterator[Payload | None]:
        for answer in self._ask([(b"GET", chunk_id) for chunk_id in ids], deadline):
            yield self._payload(answer)

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[list[Payload | None]]:
        asked, connection = self._server.begin([(b"GET", chunk_id) for chunk_id in ids], deadline)
        owed = len(ids)
        while True:
            if patience is not None and owed and not connection.has_answer_within(patience):
                yield []  # once a batch: who asks on is ready to wait
            answers, connection = next(asked, (None, connection))
            if answers is None:
                return
            owed -= len(answers)
            batch, fault = self._payloads(answers)
            if batch:
                yield batch
            if fault is not None:
                raise fault
            for payload in batch:
                self._spares.give(payload)

    def is_patient(self) -> bool:
        return self._server.has_idle()  # a new connection may take its time

    def exists_many(self, ids: Sequence[bytes], deadline: float) -> list[bool]:
        return [self._flag(answer) for answer in self._ask([(b"EXISTS", each) for each in ids], deadline)]

    def put_many(self, items: Sequence[tuple[bytes, Payload]], deadline: float) -> None:
        if self._url.scheme == "zdb":
            self._refuse_large(items)
        for answer in self._ask([(b"SET", chunk_id, payload) for chunk_id, payload in items], deadline):
            # 0-db answers the key, or a null bulk where the value is there already.
            if answer.kind not in (STATUS, BULK):
                raise self._unexpected(answer)

    def close(self) -> None:
        self._server.close()
        self._spares.clear()

    def _ask(self, commands: Sequence[Command], deadline: float) -> Iterator[Answer]:
        for answers, _ in self._server.ask(commands, deadline):
            yield from answers

    def _payloads(self, answers: Sequence[Answer]) -> tuple[list[Payload | None], StoreError | None]:
        """What `answers` bring, up to the first that is an error, and that one."""
        payloads: list[Payload | None] = []
        try:
            for answer in answers:
                payloads.append(self._payload(answer))
        except StoreError as fault:
            return payloads, fault
        return payloads, None

    def _payload(self, answer: Answer) -> Payload | None:
        if answer.kind != BULK or isinstance(answer.value, int):
            raise self._unexpected(answer)
        return answer.value

    def _flag(self, answer: Answer) -> bool:
        if answer.kind != INTEGER:
            raise self._unexpected(answer)
        return answer.value != 0

    def _unexpected(self, answer: Answer) -> StoreError:
        if answer.kind == ERROR and isinstance(answer.value, bytes):
            return answer_error(self.display, answer.value, self._url.secrets)
        return StoreProtocolError(f"{self.display}: answer of a type that was not asked for")

    def _refuse_large(self, items: Sequence[tuple[bytes, Payload]]) -> None:
        for chunk_id, payload in items:
            if len(payload) > _ZDB_MAX_VALUE:
                raise StoreError(
                    f"{self.display}: chunk {id_text(chunk_id)} has {len(payload)} bytes, "
                    f"0-db takes {_ZDB_MAX_VALUE}"
                )
