"""Every read ends in bytes or EIO within its deadline; what is cached needs no store; what was lost comes back."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Mount, counted, small_files
from tests.index.test_load import Web
from tests.support.reads import fails
from tests.support.sandbox import MountProcess, Sandbox
from tests.support.waiting import eventually
from zerofs.bench.faultproxy import Fault
from zerofs.bench.soak.faults import SPOILING
from zerofs.bench.soak.stores import Stores
from zerofs.bench.soak.tree import differences, same_bytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

FAILS = "a read failed"  # what a mount says of chunks that it cannot have
PASSED_OVER = ["do not verify", FAILS]
DEADLINE = 2.5
SILENT = {
    "never": Fault("silence"),
    "half an answer": Fault("silence", after=900),
    "a byte a second": Fault("trickle", after=100, seconds=1.0),
    "garbage": Fault("garbage", data=b"$3\r\nabcdef\r\n"),
}


def reads(ours: Path, theirs: Path) -> bool:
    try:
        assert same_bytes(ours, theirs)
    except OSError as error:
        assert error.errno == errno.EIO
        return False
    return True


@pytest.mark.parametrize(
    ("engine", "how"), [*(("fast", how) for how in SILENT), ("llfuse", "never")], indirect=["engine"]
)
def test_the_deadline_is_the_chunks_and_the_second_try_does_not_wait(
    mounted: Mount, stores: Stores, sandbox: Sandbox, how: str
) -> None:
    stores.replicas[0].spoil(SILENT[how])
    mount = mounted("--timeout", f"{DEADLINE:g}", "--prefetch", "off", allow=[FAILS])
    path = next(small_files(stores.source))
    took = fails(mount.target / path)
    assert took < 2 * DEADLINE
    found = counted(sandbox, mount)
    assert found["failures"] == 1 and found["remembered_failures"] >= 1, found


DIRECT = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
print("reads", flush=True)
os.preadv(file, [mmap.mmap(-1, 4096)], 0)
"""
BUFFERED = """
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
print("reads", flush=True)
os.pread(file, 4096, 0)
"""


# llfuse hears of no signal to a reader: around the page cache, where the kernel cannot let go, the deadline ends it.
@pytest.mark.parametrize(
    ("engine", "program"),
    [("fast", BUFFERED), ("fast", DIRECT), ("llfuse", BUFFERED)],
    ids=["fast-buffered", "fast-direct", "llfuse-buffered"],
    indirect=["engine"],
)
def test_who_waits_for_a_dead_store_can_be_killed(mounted: Mount, stores: Stores, program: str) -> None:
    stores.replicas[0].spoil(Fault("silence"))
    mount = mounted("--timeout", "300", allow=[FAILS])
    path = mount.target / next(small_files(stores.source))
    readers = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        reader = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
        readers.append((reader, number))
        assert reader.stdout is not None and reader.stdout.readline() == b"reads\n"
    eventually(lambda: all(_is_blocked(reader.pid) for reader, _ in readers), "readers wait")
    for reader, number in readers:
        reader.send_signal(number)
    for reader, number in readers:
        assert reader.wait(timeout=30) == -number
        assert reader.stdout is not None
        reader.stdout.close()
    assert mount.stop() == 0


def _is_blocked(pid: int) -> bool:
    """Whether it sleeps in a call of the file system."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return words[0] in ("17", "67", "327", "286")  # pread64, preadv2 of x86-64 and of the generic table


@pytest.mark.parametrize("engine", ["fast"], indirect=True)  # below both engines it is the same
def test_a_replica_that_misbehaves_in_any_way_is_passed_over(
    mounted: Mount, stores: Stores, sandbox: Sandbox
) -> None:
    """Each time by a mount that knows nothing of its stores, and so asks the first one first."""
    bad, _ = stores.replicas
    options = ["--local-router", os.fspath(stores.router), "--timeout", "6", "--prefetch", "off"]
    files = list(small_files(stores.source))[:2]
    kinds: dict[str, Callable[[], object]] = {
        **{name: lambda fault=fault: bad.spoil(fault) for name, fault in SPOILING.items()},
        "wrong answer": lambda: bad.lie(stores.liar),
        "down": bad.server.stop,
    }
    for kind, strike in kinds.items():
        shutil.rmtree(sandbox.path / "cache", ignore_errors=True)
        mount = mounted(*options, allow=["do not verify"])
        strike()
        for path in files:
            assert same_bytes(mount.target / path, stores.source / path), kind  # EIO is an error
        asked = _stores(sandbox, mount)[0]
        assert asked["requests"] + asked["errors"] > 0, kind
        assert counted(sandbox, mount)["failures"] == 0, kind
        assert mount.stop() == 0
        stores.heal()


def test_with_all_stores_down_what_is_cached_works_from_the_mount_on(
    mounted: Mount, stores: Stores, sandbox: Sandbox
) -> None:
    cached, other, another = list(small_files(stores.source))[:3]
    mount = mounted("--prefetch", "off")
    assert same_bytes(mount.target / cached, stores.source / cached)
    mount.stop()
    for replica in stores.replicas:
        replica.server.stop()
    mount = mounted("--timeout", "4", "--prefetch", "off", allow=[FAILS])
    before = _asked(sandbox, mount)
    assert same_bytes(mount.target / cached, stores.source / cached)
    assert sum(1 for _ in mount.target.rglob("*")) == sum(1 for _ in stores.source.rglob("*"))
    fails(mount.target / other)
    asked = _asked(sandbox, mount)
    fails(mount.target / another)
    # tried once, and once more where the kernel asks late a second time; not again and again for all of the timeout
    assert _asked(sandbox, mount) - asked < (asked - before) / 2
    stores.heal()
    eventually(lambda: reads(mount.target / another, stores.source / another), "it heals")
    eventually(lambda: reads(mount.target / other, stores.source / other), "it heals")


def _stores(sandbox: Sandbox, mount: MountProcess) -> list[dict[str, int]]:
    found = json.loads(sandbox.run("zerofs", "stats", "--json", mount.target).stdout)
    return list((found[0] if isinstance(found, list) else found)["stores"])


def _asked(sandbox: Sandbox, mount: MountProcess) -> int:
    return sum(store["requests"] for store in _stores(sandbox, mount))


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
def test_a_first_mount_with_the_store_down(mounted: Mount, stores: Stores) -> None:
    """The tree is there, content is EIO, and all of it heals without a new mount."""
    for replica in stores.replicas:
        replica.server.stop()
    mount = mounted("--timeout", "2", allow=[FAILS])
    assert sum(1 for _ in mount.target.rglob("*")) == sum(1 for _ in stores.source.rglob("*"))
    fails(mount.target / next(small_files(stores.source)))
    stores.heal()
    eventually(lambda: _is_whole(mount.target, stores.source), "it heals")


def _is_whole(root: Path, source: Path) -> bool:
    try:
        assert list(differences(root, source)) == []
    except OSError as error:
        assert error.errno == errno.EIO
        return False
    return True


def test_a_host_starts_again_without_its_registry(mounted: Mount, stores: Stores, sandbox: Sandbox) -> None:
    """A flist from a URL, its server and all stores gone: what was started before starts again."""
    directory = sandbox.directory("web")
    (directory / "flist").write_bytes(stores.flist.read_bytes())
    web = Web(directory)
    try:
        mount = mounted("--meta", web.url())
        assert _is_whole(mount.target, stores.source)
        mount.stop()
        cache = ["--cache", os.fspath(sandbox.path / "cache")]
        sandbox.run("zerofs", "gc", *cache, "--unreferenced", "--force")
    finally:
        web.stop()
    for replica in stores.replicas:
        replica.server.stop()
    mount = mounted("--meta", web.url(), allow=["what was there when it was fetched last is mounted"])
    assert _is_whole(mount.target, stores.source)
    mount.stop()
    unknown = ["--ro", "--meta", web.url() + "2", "--cache", os.fspath(sandbox.path / "cache")]
    done = sandbox.run("g8ufs", *unknown, mount.target, status=3)
    assert b"cannot fetch" in done.stderr and done.stderr.count(b"\n") == 1
