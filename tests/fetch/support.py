"""A store that does what a test tells it, with the interface of the router; how to wait, and to call from threads."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zerofs.chunk.codec import Codec, encode
from zerofs.errors import ChunkError, ChunkMissingError, ZerofsError
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.model import Chunk
from zerofs.store.link import Link

LARGE = 512 * 1024
CACHE_SIZE = 64 << 20
ROOT = Path(__file__).resolve().parents[2]

Make = Callable[..., Fetcher]


def plain_of(number: int, size: int = 3000) -> bytes:
    return hashlib.shake_128(number.to_bytes(4, "big")).digest(size)


class FakeRouter:
    """Holds payloads; each id may have several, tried in order.  Blocks while `gate` is cleared."""

    def __init__(self) -> None:
        self.payloads: dict[bytes, list[bytes]] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.failure: ZerofsError | None = None
        self.asked: list[list[bytes]] = []
        self.entered = threading.Semaphore(0)  # released once per call
        self.link = Link()

    def add(self, number: int, size: int = 3000, codec: Codec = Codec.BLAKE2B128_XXTEA) -> Chunk:
        """Store a chunk whose bytes are `plain_of`."""
        encoded = encode(codec, plain_of(number, size))
        self.payloads[encoded.id] = [encoded.payload]
        return Chunk(encoded.id, encoded.key, size)

    def fetch_batches(
        self,
        ids: Sequence[bytes],
        judge: Callable[[Sequence[tuple[int, bytes]]], Sequence[ChunkError | None]],
        fail: Callable[[int, ZerofsError], None],
        deadline: float,
        *,
        hedged: bool = True,
    ) -> None:
        self.asked.append(list(ids))
        self.entered.release()
        self.gate.wait()
        left: dict[int, list[bytes]] = {
            index: [] if self.failure else list(self.payloads.get(chunk_id, []))
            for index, chunk_id in enumerate(ids)
        }
        errors: dict[int, ZerofsError] = {}
        while arrived := [(index, payloads.pop(0)) for index, payloads in left.items() if payloads]:
            for (index, _), refused in zip(arrived, judge(arrived), strict=True):
                if refused is None:
                    del left[index]
                else:
                    errors[index] = refused
        for index in left:
            fail(index, self.failure or errors.get(index) or ChunkMissingError("no destination holds it"))

    def way_to(self, chunk_id: bytes) -> Link:
        return self.link

    def ways(self) -> list[Link]:
        return [self.link]

    def count(self, chunk: Chunk) -> int:
        """How often a chunk was asked for."""
        return sum(ids.count(chunk.id) for ids in self.asked)


def in_threads(count: int, call: Callable[[int], object]) -> list[object]:
    """`call(n)` in as many threads at once; what each returned or raised."""
    results: list[object] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = call(number)
        except ZerofsError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does; fails a test that would hang."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.002)
