"""Eviction by several processes: they agree without talking, and one that is killed leaves nothing to repair."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.cache.support import LARGE, SIZE, chunk, chunks, contents, name, pin_all_of, start, there
from zerofs.cache.lmdb import ChunkCache

CHURN = """
import random, time
chance = random.Random(int(sys.argv[2]))
with ChunkCache(Path(sys.argv[1]), size_limit=16 << 20) as cache:
    print("ready", flush=True)
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        first = chance.randrange(300)
        cache.put_many([chunk(n, 4096 * (n % 60) + 1) for n in range(first, first + 4)])
        number = chance.randrange(300)
        with cache.snapshot() as snapshot:
            view = snapshot.find(chunk(number, 0)[0])
            if view is not None:
                assert view == chunk(number, 4096 * (number % 60) + 1)[1], number
            if chance.random() < 0.1:
                cache.put_many([chunk(chance.randrange(300), 1)][:0])
                time.sleep(0.02)
                assert view is None or view == chunk(number, 4096 * (number % 60) + 1)[1], number
    stats = cache.stats()
    assert stats.errors == stats.replaced == stats.damaged == 0, stats
    print(stats.evicted, flush=True)
"""


def test_processes_that_evict_at_once_agree(tmp_path: Path) -> None:
    running = [start(CHURN, tmp_path, seed, 4) for seed in range(3)]
    sizes = []
    while any(process.poll() is None for process in running):
        if (tmp_path / "data.mdb").exists():
            sizes.append((tmp_path / "data.mdb").stat().st_size)
        time.sleep(0.05)
    outputs = [process.communicate()[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum(int(output[-1]) for output in outputs) > 100
    assert max(sizes) <= SIZE


RENEWS = """
import threading
held, renewed, seen = [], 0, 0
with ChunkCache(Path(sys.argv[1]), size_limit=16 << 20) as cache:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set(), cache.wake()), daemon=True).start()
    seen = cache.await_shortage(0, 0.0)
    snapshot = cache.snapshot()
    print("ready", flush=True)
    while not ended.is_set():
        last, seen = seen, cache.await_shortage(seen, 600.0)
        renewed += seen != last
        snapshot.release()
        snapshot = cache.snapshot()
    snapshot.release()
    print(renewed, flush=True)
"""


def test_readers_of_other_processes_are_asked_to_go(cache: ChunkCache) -> None:
    other = start(RENEWS, cache.directory)
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 120
    stored = number = 0
    while stored < 150:  # five times what the cache holds
        assert time.monotonic() < deadline
        stored += cache.put_many([chunk(number, LARGE)])
        number += 1
    assert int(other.communicate("")[0]) > 2


MIXED = """
import random, time
chance = random.Random(int(sys.argv[2]))
kept = {chunk(n, 0)[0] for n in range(4)}
with ChunkCache(Path(sys.argv[1]), size_limit=16 << 20) as cache:
    cache._environment.pins.is_pinned = lambda: kept.__contains__
    print("ready", flush=True)
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        if chance.random() < 0.4:
            first = chance.randrange(100, 900)
            size = chance.choice([900, 5000, 60_000, 300_000])
            cache.put_many([chunk(n, size) for n in range(first, first + chance.choice([1, 4, 12]))])
        else:
            with cache.snapshot() as snapshot:
                snapshot.find(chunk(chance.randrange(900), 0)[0])
                time.sleep(chance.choice([0.0, 0.01, 0.3]))
    stats = cache.stats()
    assert stats.errors == stats.replaced == stats.damaged == 0, stats
    assert not cache.full
    print(stats.evicted, stats.stored, flush=True)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_slow_readers_beside_writers_cost_neither_the_content_nor_the_bound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """Three processes, each of which stores, evicts, and holds snapshots that nobody can end."""
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        pin_all_of(cache, {name(number) for number in range(4)})
        cache.put_many(chunks(4, LARGE))
        number = 1000
        while cache.stats().evicted == 0:
            cache.put_many([chunk(number, 60_000)])
            number += 1
        running = [start(MIXED, tmp_path, 10 * seed + each, 3) for each in range(3)]
        while any(process.poll() is None for process in running):
            stats = cache.stats()
            assert stats.file <= SIZE and (tmp_path / "data.mdb").stat().st_size <= SIZE
            assert stats.used > SIZE // 2, "more went than was needed"
            assert there(cache, 4) == set(range(4))
            time.sleep(0.02)
        outputs = [process.communicate()[0].split() for process in running]
        assert [process.returncode for process in running] == [0, 0, 0]
        evicted, stored = (sum(int(each[at]) for each in outputs) for at in (1, 2))
        assert stored > 100 and evicted > 50
        deadline = time.monotonic() + 30
        in_turn = 0
        while in_turn < 40:  # nobody holds anything now
            assert time.monotonic() < deadline
            in_turn = in_turn + 1 if cache.put_many([chunk(number, LARGE)]) else 0
            number += 1
        assert there(cache, 4) == set(range(4))
    assert caplog.text == ""


def killed(program: str, delay: float, *arguments: object) -> None:
    process = start(program, *arguments)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_sigkill_while_evicting_needs_no_repair(tmp_path: Path) -> None:
    for seed in range(6):
        killed(CHURN, 0.3 + 0.1 * seed, tmp_path, seed, 60)
        with ChunkCache(tmp_path, size_limit=SIZE) as cache:
            for number in range(300):
                with cache.snapshot() as snapshot:
                    view = snapshot.find(name(number))
                    assert view is None or view == chunk(number, 4096 * (number % 60) + 1)[1]
            for number in range(1000, 1040):
                assert cache.put_many([chunk(number, LARGE)]) == 1
            assert cache.stats().errors == cache.stats().damaged == 0
    assert not list(tmp_path.glob("*bad*"))


SHRINK = """
import time
from zerofs.cache import compaction
before = compaction._copy
def slow(old, new, chosen):
    for row in chosen:
        before(old, new, [row])
        print("copied", flush=True)
        time.sleep(0.05)
compaction._copy = slow
ChunkCache(Path(sys.argv[1]), size_limit=8 << 20)
"""


def test_sigkill_while_shrinking_leaves_the_old_file(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(24, LARGE))
    killed(SHRINK, 0.2, tmp_path)
    assert (tmp_path / "data.mdb.compacting").exists()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 24) == chunks(24, LARGE)
    assert not (tmp_path / "data.mdb.compacting").exists()


def test_a_long_compaction_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerofs.cache.directory.DOOR_WAIT", 0.5)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(24, LARGE))
    process = start(SHRINK.replace("0.05", "0.15"), tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert cache.has_many([name(23)]) == [True]
    assert process.wait(60) == 0
