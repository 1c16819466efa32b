"""Chunks that routers look for, a reader that knows which bytes are right, and routers by their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.store.conftest import must_end, within
from tests.support.faultproxy import FaultProxy
from zerofs.errors import ChunkCorruptError, ZerofsError
from zerofs.store.build import build_router
from zerofs.store.router import Router

Proxied = Callable[[tuple[str, int]], FaultProxy]
CHUNKS = {bytes([number, 255]) * 8: b"payload %d" % number * 40 for number in range(0, 256, 5)}
IDS = list(CHUNKS)


def corrupted(chunk_id: bytes) -> bytes:
    return b"!" + CHUNKS[chunk_id][1:]


class Reader:
    """A fetcher's part: accepts what verifies."""

    def __init__(self, ids: Sequence[bytes] = tuple(IDS)) -> None:
        self.ids = ids
        self.got: dict[int, bytes] = {}
        self.failed: dict[int, ZerofsError] = {}

    def accept(self, index: int, payload: bytes) -> None:
        if payload != CHUNKS[self.ids[index]]:
            raise ChunkCorruptError("the bytes do not hash to the key")
        assert index not in self.got and index not in self.failed
        self.got[index] = payload

    def fail(self, index: int, error: ZerofsError) -> None:
        assert index not in self.got and index not in self.failed
        self.failed[index] = error

    def read(self, router: Router, seconds: float = 10.0) -> Reader:
        must_end(lambda: router.fetch_many(self.ids, self.accept, self.fail, within(seconds)))
        assert len(self.got) + len(self.failed) == len(self.ids)
        return self


def router_of(text: str) -> Router:
    return build_router(None, [("router.yaml", text.encode())], [], None)


def calls(server: object) -> int:
    with server.client() as client:  # type: ignore[attr-defined]
        stats = client.command("INFO", "commandstats").decode()
    return int(stats.split("cmdstat_get:calls=")[1].split(",")[0]) if "cmdstat_get:" in stats else 0
