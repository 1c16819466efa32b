"""What is decoded stays readable until it is in the cache, and takes little memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fetch.support import LARGE, ROOT, FakeRouter, Make, in_threads, plain_of, until
from zerofs.cache.lmdb import ChunkCache
from zerofs.fetch import memory as memory_module

# -- bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 1])
def test_chunks_that_are_not_cached_stay_readable_for_the_next_requests(
    router: FakeRouter, make: Make, tmp_path: Path, share: int
) -> None:
    """The kernel reads a chunk of 512 KiB in four requests."""
    chunks = [router.add(number, LARGE) for number in range(30)]
    with ChunkCache(tmp_path, size_limit=1 << 20) as cache:
        # the first one stays, and no other finds room
        cache._environment.pins.is_pinned = lambda: lambda name: True  # type: ignore[method-assign]
        fetcher = make(cache if share else None)
        for number, chunk in enumerate(chunks):
            for _ in range(4):
                assert fetcher.read(chunk) == plain_of(number, LARGE)
                until(lambda: fetcher.stats().cached + fetcher.stats().uncached > number)  # noqa: B023
        assert [router.count(chunk) for chunk in chunks] == [1] * 30
        fetcher.close()
        stats = fetcher.stats()
        assert stats.cached == share and stats.uncached == 30 - share
        held = sum(map(len, fetcher._memory._recent.values()))
        assert held <= memory_module.MOST_RECENT


# -- the writer ----------------------------------------------------------------------------


class SlowCache:
    """A cache whose writes wait for a test."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate = threading.Event()
        self.error = error
        self.batches: list[int] = []

    def snapshot(self) -> SlowCache:
        return self

    def __enter__(self) -> SlowCache:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_many(self, names: Sequence[bytes]) -> list[None]:
        return [None] * len(names)

    def put_many(self, entries: Sequence[tuple[bytes, bytes]]) -> int:
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(len(entries))
        return len(entries)


def test_a_slow_cache_holds_the_fetchers_back_instead_of_filling_the_memory(
    router: FakeRouter, make: Make
) -> None:
    slow = SlowCache()
    fetcher = make(slow, threads=2)
    chunks = [router.add(number, LARGE) for number in range(40)]
    readers = threading.Thread(target=lambda: in_threads(40, lambda n: fetcher.read(chunks[n])))
    readers.start()
    until(lambda: fetcher._memory._pending_bytes >= memory_module.MOST_PENDING)
    slow.gate.set()
    readers.join()
    fetcher.close()
    assert fetcher.stats().cached == 40
    assert max(slow.batches) * LARGE <= memory_module.BATCH_BYTES


def test_a_cache_that_takes_nothing_is_done_without(
    router: FakeRouter, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_module, "PATIENCE", 0.05)
    slow = SlowCache()
    fetcher = make(slow)
    chunks = [router.add(number, LARGE) for number in range(60)]
    assert [fetcher.read(chunk) for chunk in chunks] == [plain_of(number, LARGE) for number in range(60)]
    memory = fetcher._memory
    assert memory._pending_bytes <= memory_module.MOST_PENDING + 4 * LARGE
    assert memory._recent_bytes <= memory_module.MOST_RECENT
    assert caplog.text.count("takes no chunks") == 1
    slow.gate.set()
    fetcher.close()
    assert fetcher.stats().cached > 0


def test_a_cache_that_fails_unexpectedly_is_done_without(router: FakeRouter, make: Make) -> None:
    slow = SlowCache(RuntimeError("a bug"))
    slow.gate.set()
    fetcher = make(slow)
    for number in range(5):
        assert fetcher.read(router.add(number)) == plain_of(number)
    until(lambda: fetcher.stats().uncached == 5)
    assert fetcher.stats().cached == 0


# -- real parts ----------------------------------------------------------------------------
READ_ALL = """
import sys
from pathlib import Path
from tests.fetch.support import FakeRouter, LARGE, plain_of
from zerofs.cache.lmdb import ChunkCache
from zerofs.chunk.codec import Codec, cache_name, encode
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.model import Chunk

class Encoding(FakeRouter):
    def fetch_batches(self, ids, judge, fail, deadline, *, hedged=True):
        for index, number in enumerate(ids):
            judge([(index, encode(Codec.BLAKE2B128_XXTEA, plain_of(int(number), LARGE)).payload)])

def own():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon"))

import hashlib
keys = [hashlib.blake2b(plain_of(n, LARGE), digest_size=16).digest() for n in range(160)]
with ChunkCache(Path(sys.argv[1]), size_limit=1 << 30) as cache:
    fetcher = Fetcher(Encoding(), cache)
    for n, key in enumerate(keys):
        fetcher.read(Chunk(b"%d" % n, key, LARGE))
    fetcher.close()
    for key in keys:
        with cache.snapshot() as snapshot:
            assert snapshot.find(cache_name(key)) is not None
    print(own())
"""


def test_own_memory_stays_small_after_reading_a_lot(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 40 * 1024, "KiB of its own"
