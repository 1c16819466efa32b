"""One cache and several processes: they share it, are killed, fork, and close it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.cache.support import LARGE, SIZE, bad_files, chunk, chunks, contents, start
from zerofs.cache import writer
from zerofs.cache.lmdb import ChunkCache


def test_one_environment_in_a_process_however_many_caches(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    with ChunkCache(tmp_path / "cache", size_limit=SIZE) as one:
        with ChunkCache(tmp_path / "link", size_limit=2 * SIZE) as two:
            assert two.size_limit == SIZE
            one.put_many(chunks(2, 100))
            assert contents(two, 2) == chunks(2, 100)
        two.close()
        assert contents(one, 2) == chunks(2, 100)


SHARER = """
from zerofs.cache.lmdb import ChunkCache
first, wanted = int(sys.argv[2]), dict(chunks(120, 60_000))
with ChunkCache(Path(sys.argv[1]), size_limit=64 << 20) as cache:
    print("ready", flush=True); sys.stdin.readline()
    for number in range(first, first + 60):
        cache.put_many([chunk(number // 2 if number % 2 else number, 60_000)])
        assert all(wanted[name] == plain for name, plain in contents(cache, 120))
    print(cache.stats().replaced, cache.stats().errors, flush=True)
"""


def test_two_processes_start_at_once_and_share(tmp_path: Path) -> None:
    children = [start(SHARER, tmp_path / "cache", first) for first in (0, 60)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    outputs = [child.communicate("go\n", timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert outputs == ["0 0\n", "0 0\n"]
    with ChunkCache(tmp_path / "cache", size_limit=64 << 20) as cache:
        stored = {number // 2 if number % 2 else number for number in range(120)}
        assert contents(cache, 120) == [chunk(number, 60_000) for number in sorted(stored)]
    assert not bad_files(tmp_path / "cache")


WRITER = """
from zerofs.cache.lmdb import ChunkCache
cache = ChunkCache(Path(sys.argv[1]), size_limit=256 << 20)
for number in range(0, 100000, 4):
    cache.put_many([chunk(n, 200_000) for n in range(number, number + 4)])
    print(number + 4, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 30])
def test_sigkill_while_writing_loses_at_most_the_newest(tmp_path: Path, after: int) -> None:
    child = start(WRITER, tmp_path)
    assert child.stdout is not None
    written = 0
    for _ in range(after):
        written = int(child.stdout.readline())
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    with ChunkCache(tmp_path, size_limit=256 << 20) as cache:
        assert contents(cache, written) == chunks(written, 200_000)
        assert cache.put_many([chunk(200_000, LARGE)]) == 1
    assert not bad_files(tmp_path)


OPENER = """
from zerofs.cache.lmdb import ChunkCache
from zerofs.errors import CacheError
try:
    ChunkCache(Path(sys.argv[1]), size_limit=1 << 20)
except CacheError as error:
    print(error)
"""
READER = """
from zerofs.cache.lmdb import ChunkCache
cache = ChunkCache(Path(sys.argv[1]), size_limit=16 << 20)
snapshot = cache.snapshot()
view = snapshot.find(chunk(0, 0)[0])
print("pinned", flush=True); sys.stdin.readline()
"""


def test_a_killed_reader_pins_nothing_once_somebody_opens_the_cache(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, LARGE))
        child = start(READER, tmp_path)
        assert child.stdout is not None and child.stdout.readline() == "pinned\n"
        child.kill()
        child.communicate()
        opener = start(OPENER, tmp_path)
        opener.communicate(timeout=20)
        for number in range(10, 200):
            assert cache.put_many([chunk(number, LARGE)]) == 1, number
            cache.drop(chunk(number, 0)[0])


HOLDER = """
from zerofs.cache.lmdb import ChunkCache
cache = ChunkCache(Path(sys.argv[1]), size_limit=16 << 20)
with cache._environment.mapped.env.begin(write=True):
    print("held", flush=True); sys.stdin.readline()
"""


def test_another_process_moves_on_when_the_file_was_set_aside(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, 100))
        child = start(READER, tmp_path)
        assert child.stdout is not None and child.stdout.readline() == "pinned\n"
        mapped = cache._environment.mapped
        assert mapped is not None
        cache._environment.replace(mapped, "for the test")
        assert cache.put_many(chunks(4, 200)) == 4
        assert contents(cache, 4) == chunks(4, 200)
        child.communicate("end\n", timeout=20)
        assert child.returncode == 0


def test_a_forked_child_leaves_the_cache_of_its_parent_alone(tmp_path: Path) -> None:
    with ChunkCache(tmp_path / "one", size_limit=SIZE) as cache:
        cache.put_many(chunks(2, 100))
        snapshot = cache.snapshot()
        view = snapshot.find(chunk(0, 0)[0])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                alone = contents(cache, 2) == [] and cache.put_many(chunks(3, 100)) == 0
                cache.close()
                with ChunkCache(tmp_path / "two", size_limit=SIZE) as own:
                    status = 0 if alone and own.put_many(chunks(3, 100)) == 3 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert view == chunk(0, 100)[1]
        snapshot.release()
        assert contents(cache, 3) == chunks(2, 100)
        assert cache.put_many(chunks(3, 100)) == 3


def test_processes_of_another_pid_namespace_are_kept_out(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE):
        boot, namespace, size = (tmp_path / "users.lock").read_text().split()
        (tmp_path / "users.lock").write_text(f"{boot} {int(namespace) + 1} {size}\n")
        child = start(
            "from zerofs.cache.lmdb import ChunkCache\nChunkCache(Path(sys.argv[1]), size_limit=1 << 20)",
            tmp_path,
        )
        child.communicate(timeout=20)
        assert child.returncode == 1


def test_closing_with_a_view_out_keeps_the_view_readable(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, size_limit=SIZE)
    cache.put_many(chunks(1, LARGE))
    snapshot = cache.snapshot()
    view = snapshot.find(chunk(0, 0)[0])
    cache.close()
    cache.close()
    assert view == chunk(0, LARGE)[1]
    snapshot.release()


def test_a_view_stays_readable_whichever_cache_object_is_closed_last(tmp_path: Path) -> None:
    first, second = (ChunkCache(tmp_path, size_limit=SIZE) for _ in range(2))
    first.put_many(chunks(1, LARGE))
    snapshot = first.snapshot()
    view = snapshot.find(chunk(0, 0)[0])
    first.close()
    second.close()
    assert view == chunk(0, LARGE)[1]
    snapshot.release()


def test_closing_does_not_wait_for_a_lock_that_another_process_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STOP_PATIENCE", 0.1)
    cache = ChunkCache(tmp_path, size_limit=SIZE)
    child = start(HOLDER, tmp_path)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    stuck = threading.Thread(target=lambda: cache.put_many(chunks(1, 100)))
    stuck.start()
    while not cache._writer._lock.locked():
        pass
    cache.close()
    child.communicate("end\n", timeout=20)
    stuck.join()
