"""Prefetch on real mounts, with a real Redis behind a link that is slow."""

from __future__ import annotations

import json
import os
import random
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import xxhash

from tests.mount.conftest import engine, write  # noqa: F401 - the fixture
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.redisserver import RedisServer
from tests.support.sandbox import MountProcess, Sandbox
from tests.support.waiting import eventually
from zerofs.prefetch.profile import HEADER, Entry, Profile, encode, read_profile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

FILES = 100
BLOCK = 512 << 10


class Setting(NamedTuple):
    """A packed tree, its chunks in Redis, and the slow way there."""

    sandbox: Sandbox
    engine: str
    source: Path
    flist: Path
    server: RedisServer
    proxy: FaultProxy

    @property
    def cache(self) -> Path:
        return self.sandbox.path / "cache"

    def mount(self, *options: str, allow: tuple[str, ...] = ()) -> MountProcess:
        return self.sandbox.mount(
            *("--ro", "--engine", self.engine, "--meta", self.flist, "--cache", self.cache, "--debug"),
            *("--storage-url", f"redis://{self.proxy.host}:{self.proxy.port}", *options),
            allow=allow,
        )

    def counters(self, mount: MountProcess) -> dict[str, float]:
        """The counters of a mount that is up."""
        told = json.loads(self.sandbox.run("zerofs", "stats", "--json", mount.target).stdout)
        counters: dict[str, float] = told["prefetch"]
        return counters

    def forget_chunks(self) -> None:
        """Empty the cache, but for what is beside the chunks."""
        for path in self.cache.glob("*.mdb"):
            path.unlink()

    def profile(self) -> Path:
        (index,) = (self.cache / "flists").glob("*.index-*")
        return index.with_name(f"{index.name.partition('.')[0]}.profile")


@pytest.fixture
def setting(
    sandbox: Sandbox,
    engine: str,  # noqa: F811
    redis_server: Callable[..., RedisServer],
) -> Iterator[Setting]:
    source, flist = sandbox.directory("source"), sandbox.path / "x.flist"
    noise = random.Random(4)
    for number in range(FILES):
        write(source / f"d{number % 7}" / f"f{number}", noise.randbytes(noise.randrange(1, 30_000)))
    for number in range(3):
        write(source / f"large{number}", noise.randbytes(6 * BLOCK + 1000))
    server = redis_server()
    sandbox.run("zerofs", "pack", "--no-router", "--store", server.url, source, flist)
    with FaultProxy((server.host, server.port)) as proxy:
        proxy.fault = Fault("delay", seconds=0.01)
        yield Setting(sandbox, engine, source, flist, server, proxy)


def workload(source: Path, root: Path) -> None:
    """Reads a part of the tree in an order that says nothing; every byte must be right."""
    order = random.Random(7).sample(range(FILES), FILES // 2)
    for number in order:
        name = Path(f"d{number % 7}") / f"f{number}"
        assert (root / name).read_bytes() == (source / name).read_bytes(), name
    for number in range(2):
        with (
            (root / f"large{number}").open("rb", buffering=0) as got,
            (source / f"large{number}").open("rb") as true,
        ):
            os.posix_fadvise(got.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for block in (5, 1, 3):
                assert os.pread(got.fileno(), 4096, block * BLOCK) == os.pread(
                    true.fileno(), 4096, block * BLOCK
                )


def counted(mount: MountProcess) -> dict[str, float]:
    """The counters of a mount that has ended."""
    (line,) = re.findall(r"prefetch: ({.*})", mount.log())
    counters: dict[str, float] = json.loads(line)
    return counters


def test_a_profile_brings_what_the_workload_wants(setting: Setting) -> None:
    mount = setting.mount("--prefetch", "profile")
    workload(setting.source, mount.target)
    mount.stop()
    first = counted(mount)
    wanted = read_profile(setting.profile())
    assert len(wanted.entries) == first["demanded"] >= FILES // 2
    setting.forget_chunks()
    mount = setting.mount("--prefetch", "profile")
    workload(setting.source, mount.target)
    mount.stop()
    second = counted(mount)
    assert second["recall"] >= 0.95, second
    assert second["precision"] >= 0.9, second
    assert second["known_misses"] <= 0.05 * second["demanded"]
    assert second["demanded"] == first["demanded"]
    assert read_profile(setting.profile()).recordings == 2


def test_a_warm_mount_prefetches_nothing_and_nobody_wakes(setting: Setting) -> None:
    mount = setting.mount("--prefetch", "on")
    workload(setting.source, mount.target)
    mount.stop()
    mount = setting.mount("--prefetch", "on")
    setting.server.stop()  # it is not needed any more
    workload(setting.source, mount.target)
    eventually(lambda: _sleeps_for(mount.pid, 2.5), "a mount that rests")
    mount.stop()
    counters = counted(mount)
    assert counters["prefetched"] == counters["missed"] == 0
    assert counters["hits"] == counters["demanded"] > 0


def _sleeps_for(pid: int, seconds: float) -> bool:
    """Whether the first thread that a mount starts does not wake for longer than a generation."""
    before = _switches(pid)
    time.sleep(seconds)
    after = _switches(pid)
    ours = sorted(after)[1]
    return after[ours] == before[ours]


def _switches(pid: int) -> dict[int, str]:
    """How often each thread of a process went to sleep, by its number."""
    return {
        int(task.name): (task / "status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def test_a_rate_bounds_what_is_brought_ahead_and_no_reader(setting: Setting) -> None:
    setting.proxy.fault = None
    mount = setting.mount()
    for number in range(3):
        (mount.target / f"large{number}").read_bytes()
    mount.stop()
    setting.forget_chunks()
    rate, began = 4 << 20, time.monotonic()
    mount = setting.mount("--prefetch", "profile", "--prefetch-rate", "4M")
    brought = 0
    while brought < 16 * BLOCK:  # of 21
        brought = setting.counters(mount)["prefetched_bytes"]
        assert brought <= (time.monotonic() - began) * rate + 1.1 * BLOCK
        assert time.monotonic() < began + 60
    workload(setting.source, mount.target)
    mount.stop()


def test_off_means_off(setting: Setting) -> None:
    mount = setting.mount("--prefetch", "off")
    workload(setting.source, mount.target)
    mount.stop()
    assert "prefetch:" not in mount.log()
    assert not setting.profile().exists()


def test_heuristics_do_not_replay_but_record(setting: Setting) -> None:
    for _ in range(2):
        mount = setting.mount("--prefetch", "heuristics")
        workload(setting.source, mount.target)
        mount.stop()
        setting.forget_chunks()
    assert read_profile(setting.profile()).recordings == 2
    assert counted(mount)["known_misses"] == 0


def test_a_stream_is_run_ahead_of(setting: Setting) -> None:
    setting.proxy.fault = None
    mount = setting.mount("--prefetch", "profile")
    with (mount.target / "large0").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # none of the kernel's own
        for block, ahead in ((0, 0), (1, 1), (2, 5)):  # to the end of the file
            os.pread(file.fileno(), 4096, block * BLOCK)
            eventually(lambda: setting.counters(mount)["prefetched"] >= ahead, f"{ahead} chunks ahead")  # noqa: B023
    mount.stop()
    counters = counted(mount)
    assert counters["missed"] == 2
    assert counters["used"] == 1
    assert counters["prefetched"] == 5, "to the end of the file"


def test_one_read_in_the_middle_fetches_one_chunk(setting: Setting) -> None:
    mount = setting.mount("--prefetch", "profile")
    with (mount.target / "large0").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 4096, 3 * BLOCK)
        time.sleep(0.3)
    mount.stop()
    assert (counted(mount)["missed"], counted(mount)["prefetched"]) == (1, 0)


def told_huge(data: bytes) -> bytes:
    """With a count of entries that nothing could hold, and a checksum that is right."""
    *fields, _, size = HEADER.unpack_from(data)
    whole = HEADER.pack(*fields, 0xFFFFFFFF, size) + data[HEADER.size : -8]
    return whole + xxhash.xxh3_64_intdigest(whole).to_bytes(8, "little")


BAD = {
    "of another flist": (lambda good: encode(good._replace(content_hash=bytes(32))), "of another flist"),
    "truncated": (lambda good: encode(good)[:-20], "cut off"),
    "hostile": (lambda good: encode(good._replace(entries=(Entry(0xFFFFFFFF, 0),))), "does not have"),
    "hostile in what it says of itself": (lambda good: told_huge(encode(good)), "over the bound"),
    "newer": (
        lambda good: MAGIC_AND_VERSION_2 + encode(good)[len(MAGIC_AND_VERSION_2) :],
        "version 2 of profiles is not known",
    ),
}
MAGIC_AND_VERSION_2 = struct.pack("<8sH", b"ZEROFSPR", 2)
assert HEADER.format.startswith("<8sH")


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_profile_is_ignored_with_one_warning(setting: Setting, kind: str) -> None:
    make, reason = BAD[kind]
    setting.proxy.fault = None
    mount = setting.mount()
    workload(setting.source, mount.target)
    mount.stop()
    path = setting.profile()
    good: Profile = read_profile(path)
    path.write_bytes(make(good))
    setting.forget_chunks()
    mount = setting.mount("--prefetch", "profile", allow=("the access profile is ignored",))
    workload(setting.source, mount.target)
    assert mount.stop() == 0
    warnings = [line for line in mount.log().splitlines() if " WARNING " in line]
    assert len(warnings) == 1, mount.log()
    assert reason in warnings[0]
    assert counted(mount)["known_misses"] == 0
    assert {entry.number for entry in read_profile(path).entries} == {e.number for e in good.entries}


def test_a_store_that_goes_away_does_not_hang_the_mount(setting: Setting) -> None:
    mount = setting.mount()
    workload(setting.source, mount.target)
    mount.stop()
    setting.forget_chunks()
    setting.server.stop()
    mount = setting.mount("--timeout", "2", allow=(".*",))
    with pytest.raises(OSError):
        (mount.target / "large0").read_bytes()
    assert mount.stop() == 0
