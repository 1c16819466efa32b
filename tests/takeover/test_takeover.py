"""The process that serves a mount is replaced, after its death or on purpose, and nobody who reads notices."""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.mounts import mounted_at, mounts_below
from tests.support.redisserver import RedisServer
from tests.support.sandbox import Sandbox
from tests.support.versions import VersionReaders, shown, write_version
from tests.support.waiter import Waiting
from tests.support.waiting import SECONDS, eventually
from tests.takeover.conftest import Readers, Supervised, base, hang_up, update

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

Mount = Callable[..., Supervised]


def test_the_supervisor_is_whom_the_mount_names(image: Image, supervised: Mount, sandbox: Sandbox) -> None:
    mount = supervised(image)
    seen = mounted_at(mount.target)
    assert seen is not None
    assert (seen.type, seen.source) == ("fuse.g8ufs", str(mount.process.pid))
    told = mount.stats()["mount"]
    assert (told["process"], told["takeovers"]) == (mount.process.pid, 0)
    assert told["server"] != mount.process.pid
    mount.check()
    # what asks the command line and the open cache of a server asks the supervisor, and who it started
    sandbox.run("zerofs", "warmup", "--check", mount.target)
    assert mount.process.stop() == 0
    assert mounts_below(sandbox.path) == []
    assert not Path(f"/run/zerofs/{mount.process.pid}.sock").exists()
    assert not Path(f"/run/zerofs/{mount.process.pid}.upgrade").exists()


def test_killed_again_and_again_under_readers(
    image: Image, supervised: Mount, readers: Callable[[Supervised], Readers]
) -> None:
    mount = supervised(image)
    reading = readers(mount)
    for _ in range(7):  # more often than what would end a mount, were the deaths in a row
        time.sleep(0.7)
        mount.kill()
    reading.end()
    mount.check()
    told = mount.stats()["mount"]
    assert (told["takeovers"], told["process"]) == (7, mount.process.pid)
    assert mount.process.stop() == 0


def test_deaths_with_a_server_in_between_that_served_well_are_not_in_a_row(
    image: Image, supervised: Mount
) -> None:
    """Each upgrade lets a sound server go, and its successor is killed at once."""
    mount = supervised(image)
    for _ in range(6):
        time.sleep(0.7)
        count = mount.process.log().count("has taken over")
        os.kill(json.loads(mount.upgrade().stdout)["server"], signal.SIGKILL)
        # the successor, and who stands in for it
        eventually(
            lambda count=count: mount.process.log().count("has taken over") > count + 1, "the takeover"
        )
    mount.check()
    assert mount.process.stop() == 0


def test_upgraded_under_readers(
    image: Image, supervised: Mount, readers: Callable[[Supervised], Readers]
) -> None:
    mount = supervised(image)
    reading = readers(mount)
    servers = [mount.server]
    for count in range(1, 5):
        told = json.loads(mount.upgrade().stdout)
        assert (told["process"], told["takeovers"]) == (mount.process.pid, count)
        servers.append(told["server"])
        assert mount.server == told["server"]
    reading.end()
    assert len(set(servers)) == 5
    mount.check()
    eventually(lambda: not Path(f"/proc/{servers[0]}").exists(), "the end of the first server")


@pytest.mark.parametrize("how", ["kill", "upgrade"])
def test_reads_that_wait_for_a_store_go_on(
    how: str, supervised: Mount, sandbox: Sandbox, redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server()
    source, flist = sandbox.directory("source"), sandbox.path / "slow.flist"
    write(source / "file", os.urandom(2_000_000))
    sandbox.run("zerofs", "pack", "--no-router", "--store", server.url, source, flist)
    image = Image.__new__(Image)
    image.source, image.flist = source, flist
    with FaultProxy((server.host, server.port)) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        mount = supervised(image, "--storage-url", url, "--prefetch", "off", allow=(r"a read failed",))
        proxy.fault = Fault("silence")
        with subprocess.Popen(["cmp", source / "file", mount.target / "file"]) as reader:
            try:
                eventually(lambda: mount.stats()["reads"]["waiting"] > 0, "a read that waits")
                mount.kill() if how == "kill" else mount.upgrade()
                eventually(lambda: mount.stats()["reads"]["waiting"] > 0, "the same read, sent again")
                assert mount.stats()["mount"]["takeovers"] == 1
                assert reader.poll() is None
                proxy.fault = None
                proxy.break_connections()
                assert reader.wait(60) == 0
            finally:
                proxy.fault = None
                reader.kill()


def test_a_live_swap_outlives_its_server(
    pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox
) -> None:
    """Through the overlay, which goes on: names that linger, node ids, and what was written."""
    backend = sandbox.directory("backend")
    mount = supervised(pack("base", base), "--backend", backend, "--reset")
    root = mount.target
    inode = (root / "kept").stat().st_ino
    (root / "mine").write_text("in the read-write layer")
    held = (root / "held").open()
    hang_up(mount.process.pid, backend, pack("update", update).flist)
    eventually(lambda: "swapped the tree" in mount.process.log(), "the swap")
    mount.kill()
    assert (root / "fresh").read_text() == "fresh"
    assert (root / "mine").read_text() == "in the read-write layer"
    assert held.read() == "old, and held open"
    assert (root / "held").read_text() in ("old, and held open", "new")
    mount.upgrade()
    assert (root / "kept").stat().st_ino == inode
    assert (root / "kept").read_bytes() == (mount.image.source / "kept").read_bytes()
    held.seek(0)
    assert held.read() == "old, and held open"
    held.close()
    eventually(lambda: (root / "held").read_text() == "new", "the new file under a name that was held")
    hang_up(mount.process.pid, backend, pack("more", lambda root: write(root / "more", "more")).flist)
    eventually(lambda: (root / "more").exists(), "another swap, by the successor")
    eventually(lambda: not (root / "fresh").exists(), "the end of what the swap took away")
    assert mount.process.stop() == 0
    assert mounts_below(sandbox.path) == []


@pytest.mark.parametrize("layering", ["--ro", "--reset"])
def test_a_server_that_dies_in_a_swap(
    layering: str,
    pack: Callable[..., Image],
    supervised: Mount,
    sandbox: Sandbox,
    next_server: Callable[[str], None],
) -> None:
    """The successor ends what was begun, and tells the kernel once more what to forget."""
    backend = sandbox.directory("backend")
    next_server(
        "import os\nfrom zerofs.mount import flistmount\n"
        "flistmount.FlistMount.forget = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    mount = supervised(pack("base", base), "--backend", backend, layering)
    next_server("")
    assert not (mount.target / "fresh").exists()
    assert (mount.target / "held").read_text() == "old, and held open"
    hang_up(mount.process.pid, backend, pack("update", update).flist)
    eventually(lambda: "has taken over" in mount.process.log(), "the takeover")
    eventually(lambda: (mount.target / "fresh").exists(), "the new tree")
    eventually(lambda: (mount.target / "held").read_text() == "new", "the new file")


def test_swaps_and_deaths_under_readers_of_what_is_replaced(
    pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox
) -> None:
    """They open, hold and close the same few names all the time: none fails, and none shows an older file again."""
    images = [pack(f"v{n}", partial(write_version, version=n)) for n in range(6)]
    backend = sandbox.directory("backend")
    mount = supervised(images[0], "--backend", backend, "--reset")
    chance = random.Random(11)
    with VersionReaders(mount.target, sandbox.path / "stop"):
        for count, image in enumerate(images[1:]):
            server = mount.server
            hang_up(mount.process.pid, backend, image.flist)
            time.sleep(chance.random() * 0.15)  # before, in or after the swap
            os.kill(server, signal.SIGKILL)
            eventually(
                lambda count=count: mount.process.log().count("has taken over") > count, "the takeover"
            )
        hang_up(mount.process.pid, backend, images[-1].flist)
        eventually(lambda: shown(mount.target) == {5}, "the last version")


IN_A_SWAP = """
import time
from pathlib import Path
from zerofs.mount import flistmount
prepare = flistmount.FlistMount.prepare
def slowly(self, layers):
    Path({place!r}).touch()
    while Path({place!r}).exists():
        time.sleep(0.01)
    return prepare(self, layers)
flistmount.FlistMount.prepare = slowly
"""


@pytest.mark.parametrize("layering", ["--ro", "--reset"])
def test_an_upgrade_during_a_swap(
    layering: str,
    pack: Callable[..., Image],
    supervised: Mount,
    sandbox: Sandbox,
    next_server: Callable[[str], None],
) -> None:
    """The successor had prepared to serve the old tree by then."""
    backend, place = sandbox.directory("backend"), sandbox.path / "in-a-swap"
    next_server(IN_A_SWAP.format(place=str(place)))
    mount = supervised(pack("base", base), "--backend", backend, layering)
    next_server("")
    hang_up(mount.process.pid, backend, pack("update", update).flist)
    eventually(place.exists, "the swap")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        upgrade = pool.submit(mount.upgrade)
        children = Path(f"/proc/{mount.process.pid}/task/{mount.process.pid}/children")
        eventually(lambda: len(children.read_text().split()) == 2, "the successor")
        time.sleep(0.5)  # in which it prepares
        place.unlink()
        told = json.loads(upgrade.result(60).stdout)
    assert (told["takeovers"], told["server"]) == (1, mount.server)
    assert (mount.target / "fresh").read_text() == "fresh"
    assert (mount.target / "held").read_text() == "new"
    hang_up(mount.process.pid, backend, pack("more", lambda root: write(root / "more", "more")).flist)
    eventually(lambda: (mount.target / "more").exists(), "another swap, by the successor")
    assert (mount.target / "more").read_text() == "more"


PREPARED = """
import time
from pathlib import Path
from zerofs.mount.session import Session
await_turn = Session.await_turn
def later(self):
    Path({place!r}).touch()
    while Path({place!r}).exists():
        time.sleep(0.01)
    await_turn(self)
Session.await_turn = later
from zerofs.mount.notify import Teller
remount = Teller.remount
def slowly(self, *what):
    found = remount(self, *what)
    time.sleep(0.2)  # between two steps of a look at what lingers
    return found
Teller.remount = slowly
"""


def test_a_name_that_is_released_while_a_successor_prepares(
    pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    """Who has seen the new file never sees the old one again."""
    backend, place = sandbox.directory("backend"), sandbox.path / "prepared"
    mount = supervised(pack("base", base), "--backend", backend, "--reset")
    name = mount.target / "held"
    with name.open() as held:
        assert held.read() == "old, and held open"
        hang_up(mount.process.pid, backend, pack("update", update).flist)
        eventually(lambda: "swapped the tree" in mount.process.log(), "the swap")
        next_server(PREPARED.format(place=str(place)))
        pool = concurrent.futures.ThreadPoolExecutor()
        upgrade = pool.submit(mount.upgrade)
        eventually(place.exists, "a successor that knows what lingers")
    eventually(lambda: name.read_text() == "new", "the new file")
    place.unlink()
    upgrade.result(60)
    end = time.monotonic() + 0.5  # in which the successor would look at what lingers
    while time.monotonic() < end:
        assert name.read_text() == "new"
    pool.shutdown()


def test_a_server_that_dies_while_it_waits_for_a_reader_of_its_own(
    pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    """Its successor answers the reader."""
    backend = sandbox.directory("backend")
    waiting = Waiting(sandbox)
    next_server(waiting.code)
    mount = supervised(pack("base", base), "--backend", backend, "--ro")
    next_server("")
    layer = pack("update", update).flist
    status, said = waiting.kill(
        mount.server, mount.target, lambda: hang_up(mount.process.pid, backend, layer)
    )
    assert (status, said.split()) == (0, ["fresh", "held", "kept"])
    assert (mount.target / "held").read_text() == "new"


DIES_WITH_WHAT_THE_KERNEL_FORGETS = """
import os, select
from zerofs.mount import flistmount
forget = flistmount.FlistMount.forget
def forget_and_die(self, *what):
    self._engine.halt(1.0)
    forget(self, *what)
    channel = self._engine._channel.descriptor
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    while waiting.poll(200):
        if int.from_bytes(os.read(channel, 65536)[4:8], "little") in (2, 42):  # FORGET, BATCH_FORGET
            os.kill(os.getpid(), 9)
flistmount.FlistMount.forget = forget_and_die
"""


def test_a_server_that_dies_with_what_the_kernel_forgets(
    pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    """A FORGET comes once, and is never sent again.  Somebody reads the name all the time."""
    backend = sandbox.directory("backend")
    next_server(DIES_WITH_WHAT_THE_KERNEL_FORGETS)
    mount = supervised(pack("base", base), "--backend", backend, "--reset")
    next_server("")
    server, held = mount.server, mount.target / "held"
    assert held.read_text() == "old, and held open"
    hang_up(mount.process.pid, backend, pack("update", update).flist)
    eventually(lambda: not Path(f"/proc/{server}/exe").exists(), "the end of the first server")
    end = time.monotonic() + SECONDS
    while held.read_text() != "new":
        assert time.monotonic() < end, "the old file is still there"


def test_the_flist_is_not_needed_again(image: Image, supervised: Mount, sandbox: Sandbox) -> None:
    """Neither the flist nor its compiled index may be there any more: a host cleans up, or unpacks another."""
    mount = supervised(image)
    image.flist.write_bytes(b"another flist by now")
    for index in (sandbox.path / "cache" / "flists").iterdir():
        index.unlink()
    mount.kill()
    mount.upgrade()
    mount.check()


@pytest.mark.parametrize("union", [False, True])
def test_a_mount_in_memory_and_its_end(
    union: bool, image: Image, supervised: Mount, sandbox: Sandbox
) -> None:
    """A private backend outlives its server, and is gone with the mount."""
    mount = supervised(image, union=union)
    first = mount.server
    if union:
        (mount.target / "mine").write_text("in memory")
    mount.upgrade()
    eventually(lambda: not Path(f"/proc/{first}").exists(), "the end of the first server")
    mount.kill()
    mount.check() if not union else (mount.target / "large/file-1").read_bytes()
    if union:
        assert (mount.target / "mine").read_text() == "in memory"
    sandbox.run("zerofs", "umount", mount.target)
    assert mount.process.wait() == 0
    assert mounts_below(sandbox.path) == []
    assert "stays" not in mount.process.log()


def test_sigterm_while_nobody_serves(image: Image, supervised: Mount, sandbox: Sandbox) -> None:
    mount = supervised(image, "--backend", sandbox.directory("backend"))
    os.kill(mount.server, signal.SIGKILL)
    eventually(lambda: "which served the mount" in mount.process.log(), "the death")
    assert mount.process.stop() == 0
    assert mounts_below(sandbox.path) == []


@pytest.mark.parametrize("union", [False, True])
def test_a_supervisor_that_is_killed_takes_the_mount_along(
    union: bool, image: Image, supervised: Mount, sandbox: Sandbox
) -> None:
    options = ("--backend", sandbox.directory("backend")) if union else ()
    mount = supervised(image, *options)
    server = mount.server
    assert mount.process.stop(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: not Path(f"/proc/{server}").exists(), "the end of the server")
    assert mounts_below(sandbox.path) == []
    assert "the supervisor is gone" in mount.process.log()


def test_in_the_background(image: Image, sandbox: Sandbox) -> None:
    """--daemon, --pid and --log are the supervisor's."""
    log, pid, target = sandbox.path / "log", sandbox.path / "pid", sandbox.directory("mnt")
    done = sandbox.run(
        "g8ufs", "--supervised", "--ro", "--daemon", "--log", log, "--pid", pid, *image.options, target
    )
    assert done.stdout == b"mount starts\n"
    seen = mounted_at(target)
    assert seen is not None
    assert seen.source == pid.read_text().strip()
    sandbox.run("zerofs", "upgrade", target)
    assert (target / "large/file-1").read_bytes() == (image.source / "large/file-1").read_bytes()
    assert "has taken over" in log.read_text()
    sandbox.run("zerofs", "umount", target)
    eventually(lambda: not pid.exists(), "the end of the supervisor")
