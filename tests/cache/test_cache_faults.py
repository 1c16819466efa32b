"""The cache when files, disks and processes fail: nothing wrong is served, and nothing fails a mount."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from tests.cache.support import chunk, chunks, contents
from zerofs.cache import environment, writer
from zerofs.cache.directory import KEPT_ASIDE
from zerofs.cache.lmdb import ChunkCache
from zerofs.errors import CacheError

SIZE = 16 << 20
LARGE = 512 * 1024
ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount or to become another user")


def bad_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("data.mdb.bad-*"))


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `program` and talks through its pipes."""
    preamble = "import sys, os\nfrom pathlib import Path\nfrom tests.cache.support import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", preamble + program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


# -- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"garbage" * 5000, b"\xff" * 3, b"SQLite format 3\0" * 9000])
def test_garbage_is_set_aside(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(3, LARGE)) == 3
        assert contents(cache, 3) == chunks(3, LARGE)
    (aside,) = bad_files(tmp_path)
    assert aside.read_bytes() == content
    assert len(caplog.records) == 1 and "set aside" in caplog.text


def test_an_empty_file_is_a_fresh_cache(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").touch()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(3, 100)) == 3
    assert not bad_files(tmp_path)


def test_a_truncated_file_is_set_aside(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(10, LARGE))
    data = tmp_path / "data.mdb"
    for size in (data.stat().st_size // 2, 8192, 5000):
        os.truncate(data, size)
        with ChunkCache(tmp_path, size_limit=SIZE) as cache:
            assert contents(cache, 10) == []
            cache.put_many(chunks(10, LARGE))
        assert len(bad_files(tmp_path)) == KEPT_ASIDE


def test_a_few_missing_pages_at_the_end_cost_what_lay_there(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(10, LARGE))
    data = tmp_path / "data.mdb"
    os.truncate(data, data.stat().st_size - 3 * 4096)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        found = contents(cache, 10)
        assert set(found) <= set(chunks(10, LARGE))
        cache.put_many(chunks(10, LARGE))
        assert contents(cache, 10) == chunks(10, LARGE)


def test_another_layout_is_set_aside(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(1, 100))
    env = lmdb.Environment(str(tmp_path), max_dbs=4, map_size=SIZE)
    with env.begin(env.open_db(b"meta"), write=True) as transaction:
        transaction.put(b"layout", b"0")
    env.close()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 1) == []
    assert len(bad_files(tmp_path)) == 1


def test_an_lmdb_file_of_somebody_else_is_set_aside(tmp_path: Path) -> None:
    env = lmdb.Environment(str(tmp_path), map_size=SIZE)
    with env.begin(write=True) as transaction:
        transaction.put(b"a", b"b")
    env.close()
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(2, 100)) == 2
    assert len(bad_files(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["directory", "symlink", "dangling"])
def test_what_is_no_file_is_set_aside(kind: str, tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    data = directory / "data.mdb"
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "directory":
        data.mkdir()
    else:
        data.symlink_to(victim if kind == "symlink" else tmp_path / "nowhere")
    with ChunkCache(directory, size_limit=SIZE) as cache:
        assert cache.put_many(chunks(2, 100)) == 2
    assert data.is_file() and not data.is_symlink()
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_bad_files_do_not_pile_up(tmp_path: Path) -> None:
    for _ in range(4):
        (tmp_path / "data.mdb").write_bytes(b"garbage" * 5000)
        (tmp_path / "data.mdb").chmod(0o600)
        ChunkCache(tmp_path, size_limit=SIZE).close()
    assert len(bad_files(tmp_path)) == KEPT_ASIDE


# -- bits ----------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_chunk_is_found_dropped_and_replaced(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(5, LARGE))
    data = tmp_path / "data.mdb"
    name, plain = chunk(2, LARGE)
    flip(data, data.read_bytes().index(plain) + 1000)  # its beginning alone may lie elsewhere, too
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        with cache.snapshot() as snapshot:
            assert snapshot.find(name) is None
            unchecked = snapshot.find(name, verify=False)
            assert unchecked is not None and unchecked != plain
            assert [snapshot.find(chunk(n, 0)[0]) == chunk(n, LARGE)[1] for n in (0, 1, 3, 4)] == [True] * 4
        assert cache.stats().damaged == 1
        assert cache.put_many([(name, plain)]) == 1
        assert contents(cache, 5) == chunks(5, LARGE)
        assert cache.stats().replaced == 0


def test_who_still_finds_a_damaged_entry_does_not_drop_what_took_its_place(tmp_path: Path) -> None:
    """A snapshot from before goes on finding the damaged bytes."""
    name, plain = chunk(1, LARGE)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many([(name, plain)])
    flip(tmp_path / "data.mdb", (tmp_path / "data.mdb").read_bytes().index(plain) + 1000)
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        with cache.snapshot() as before:
            assert before.find(name) is None
            cache.put_many([(name, plain)])
            assert before.find(name) is None
            cache.put_many([chunk(2, 10)])
        assert contents(cache, 3) == [(name, plain), chunk(2, 10)]
        assert cache.stats().damaged == 1


def test_flipped_bits_anywhere_never_give_wrong_bytes(tmp_path: Path) -> None:
    """LMDB refuses what it notices, the checksums refuse the rest; each trial in a process of its own."""
    with ChunkCache(tmp_path / "whole", size_limit=SIZE) as cache:
        cache.put_many([chunk(n, 50 + n * 37) for n in range(120)])
    whole = (tmp_path / "whole" / "data.mdb").read_bytes()
    source = random.Random(5)
    for trial in range(25):
        directory = tmp_path / str(trial)
        directory.mkdir()
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        (directory / "data.mdb").write_bytes(damaged)
        child = os.fork()
        if child == 0:
            status = 3
            try:
                status = _read_all_and_refill(directory)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, trial


def _read_all_and_refill(directory: Path) -> int:
    """Exit status 0: no wrong bytes, and everything is there after it was put again."""
    logging.disable()
    wanted = dict(chunk(n, 50 + n * 37) for n in range(120))
    try:
        with ChunkCache(directory, size_limit=SIZE) as cache:
            for attempt in range(3):
                with cache.snapshot() as snapshot:
                    found = {
                        name: bytes(view) for name in wanted if (view := snapshot.find(name)) is not None
                    }
                if any(wanted[name] != plain for name, plain in found.items()):
                    return 1
                if attempt and len(found) == len(wanted):
                    return 0
                cache.put_many(wanted.items())
        return 2
    finally:
        logging.disable(logging.NOTSET)


def test_an_entry_where_another_belongs_sets_the_file_aside(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, LARGE))
        mapped = cache._environment.mapped
        assert mapped is not None
        first, second = (name for name, _ in chunks(2, 0))
        with mapped.env.begin(mapped.chunks, write=True) as transaction:
            value = transaction.get(first)
            assert value is not None
            transaction.put(second, value)
        with cache.snapshot() as snapshot:
            view = snapshot.find(first)
            assert snapshot.find(second) is None
            assert view == chunk(0, LARGE)[1], "views of the old file stay valid"
        assert cache.stats().replaced == 1
        assert cache.put_many(chunks(2, LARGE)) == 2
        assert contents(cache, 2) == chunks(2, LARGE)
    assert len(bad_files(tmp_path)) == 1


def test_a_disk_that_spoils_file_after_file_is_left_alone(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        for _ in range(environment.MOST_REPLACEMENTS + 1):
            mapped = cache._environment.mapped
            assert mapped is not None
            cache._environment.trouble(mapped, lmdb.CorruptedError("page"))
        assert cache._environment.mapped is None
        assert cache.put_many(chunks(2, 100)) == 0
        assert contents(cache, 2) == []
        assert cache.has_many([chunk(0, 0)[0]]) == [False]


# -- the host ------------------------------------------------------------------------------


def test_a_file_that_was_in_use_when_the_host_went_down_is_not_trusted(tmp_path: Path) -> None:
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        cache.put_many(chunks(2, 100))
        line = (tmp_path / "users.lock").read_text()
    assert (tmp_path / "users.lock").read_text() == "", "the last user leaves no line"
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 2) == chunks(2, 100)
    boot, namespace, size = line.split()
    (tmp_path / "users.lock").write_text(f"{boot} {namespace} {size}\n")
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 2) == chunks(2, 100), "killed, but the kernel went on"
    (tmp_path / "users.lock").write_text(f"another-boot {namespace} {size}\n")
    with ChunkCache(tmp_path, size_limit=SIZE) as cache:
        assert contents(cache, 2) == []
    assert len(bad_files(tmp_path)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@as_root
def test_a_disk_that_gets_full_is_served_without_it(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkCache(small_disk / "cache", size_limit=64 << 20) as cache:
        stored = sum(cache.put_many([chunk(number, LARGE)]) for number in range(30))
        assert 10 < stored < 16
        assert contents(cache, 30) == chunks(stored, LARGE)
        assert cache.stats().errors == 1, "it pauses instead of trying each time"
        assert len(caplog.records) == 1 and "for now" in caplog.text
    with ChunkCache(small_disk / "cache", size_limit=64 << 20) as cache:
        assert contents(cache, 30) == chunks(stored, LARGE)


@as_root
@pytest.mark.parametrize("free", [0, 4096, 100_000, 140_000])
def test_a_disk_that_is_full_from_the_start_is_no_error(small_disk: Path, free: int) -> None:
    directory = small_disk / "cache"
    directory.mkdir(0o700)
    with (small_disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, os.statvfs(small_disk).f_bavail * 4096 - free)
    with ChunkCache(directory, size_limit=64 << 20) as cache:
        cache.put_many(chunks(3, LARGE))
        assert contents(cache, 3) == []


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_a_path_that_is_no_directory_is_unusable(what: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="cannot be used") as caught:
        ChunkCache(tmp_path / "file" if what == "a file" else tmp_path / "file" / "x", size_limit=SIZE)
    assert caught.value.exit_code == 6


def test_a_directory_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(CacheError, match="everybody"):
        ChunkCache(tmp_path, size_limit=SIZE)


@as_root
def test_a_directory_of_another_group_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 4242)
    tmp_path.chmod(0o770)
    with pytest.raises(CacheError, match="another group"):
        ChunkCache(tmp_path, size_limit=SIZE)
    os.chown(tmp_path, 0, os.getegid())
    ChunkCache(tmp_path, size_limit=SIZE).close()


@as_root
def test_root_does_not_trust_what_another_user_can_change(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(CacheError, match="belongs to another user"):
        ChunkCache(tmp_path, size_limit=SIZE)


@as_root
@pytest.mark.parametrize(
    ("owner", "mode", "reason"),
    [(0, 0o755, "belongs to another user"), (65534, 0o500, "no permission"), (65534, 0o300, "no permission")],
)
def test_a_directory_of_somebody_else_is_refused(owner: int, mode: int, reason: str, tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(mode)
    tmp_path.chmod(0o711)
    os.chown(directory, owner, -1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(tmp_path)
            os.seteuid(65534)
            ChunkCache(Path("cache"), size_limit=SIZE)
        except CacheError as error:
            status = 0 if reason in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- processes -----------------------------------------------------------------------------


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
