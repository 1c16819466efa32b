"""Servers that die again and again: when the mount is given up, and what can be asked of it until then."""

from __future__ import annotations

import concurrent.futures
import json
import os
import resource
import signal
from collections.abc import Callable

import pytest

from tests.mount.conftest import Image
from tests.support.mounts import mounts_below
from tests.support.sandbox import Sandbox
from tests.support.waiting import eventually
from tests.takeover.conftest import Supervised, base, hang_up, update
from zerofs.mount import deaths
from zerofs.mount.deaths import MOST, Deaths

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
KILLED = "import os; os.kill(os.getpid(), 9)"

Mount = Callable[..., Supervised]


def test_servers_that_fail_are_replaced_a_few_times() -> None:
    row, pauses = Deaths(), []
    while not row.are_hopeless:
        row.add(quick=True, killed=False)
        pauses.append(row.pause)
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8]


def test_a_server_that_served_begins_another_row() -> None:
    row = Deaths()
    for _ in range(MOST - 1):
        row.add(quick=True, killed=False)
    row.add(quick=False, killed=False)
    assert (row.number, row.pause) == (1, 0.0)
    for _ in range(MOST - 2):
        row.add(quick=True, killed=False)
    assert not row.are_hopeless
    row.begin_anew()
    row.add(quick=True, killed=False)
    assert row.pause == 0.0


def test_servers_that_are_killed_are_replaced_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(deaths.time, "monotonic", lambda: now)
    row = Deaths()
    while not row.are_hopeless:
        row.add(quick=True, killed=True)
        now += row.pause + 0.25
    assert deaths.KILLED_SECONDS <= now - 1000.0 < deaths.KILLED_SECONDS + 3
    assert 15 < row.number < 25


def test_a_server_that_fails_among_many_that_were_killed_is_one() -> None:
    row = Deaths()
    for _ in range(MOST * 2):
        row.add(quick=True, killed=True)
    for _ in range(MOST - 1):
        row.add(quick=True, killed=False)
    assert not row.are_hopeless
    row.add(quick=True, killed=False)
    assert row.are_hopeless


def in_a_row(mount: Supervised, number: int, next_server: Callable[[str], None]) -> None:
    """Have `number` servers be killed, the last ones before they served; the next one would be sound."""
    server = mount.server
    next_server(KILLED)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: mount.process.log().count("was killed by SIGKILL") >= number, "as many deaths")
    next_server("")


@needs_root
def test_more_deaths_than_a_failing_server_is_allowed(
    image: Image, supervised: Mount, next_server: Callable[[str], None]
) -> None:
    """Readers wait meanwhile, and see no error."""
    mount = supervised(image)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        in_a_row(mount, MOST + 2, next_server)
        pool.submit(mount.check).result(60)
    assert mount.stats()["mount"]["takeovers"] == 1
    assert mount.process.stop() == 0


@needs_root
def test_a_supervisor_that_can_start_nobody_for_a_while(image: Image, supervised: Mount) -> None:
    """As on a host without memory; here it has no descriptors left."""
    mount = supervised(image, allow=(r"no other server can be started for now",))
    server, supervisor = mount.server, mount.process.pid
    soft, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(server, signal.SIGKILL)
    eventually(lambda: mount.process.log().count("can be started for now") > MOST, "starts in vain")
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (soft, hard))
    mount.check()
    assert mount.stats()["mount"]["takeovers"] == 1


PAUSE = """
import sys
if "zerofs.cli.serving" not in sys.orig_argv:
    import zerofs.mount.deaths as deaths
    deaths._FIRST_PAUSE = deaths._LONGEST_PAUSE = 1000.0
"""


@pytest.fixture
def forsaken(
    pack: Callable[..., Image], supervised: Mount, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Supervised:
    """A mount that nobody serves, nor would for long; its backend is the directory ``backend``."""
    hook = sandbox.directory("pause")
    (hook / "sitecustomize.py").write_text(PAUSE)
    monkeypatch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
    mount = supervised(pack("base", base), "--backend", sandbox.directory("backend"), "--reset")
    mount.kill()
    os.kill(mount.server, signal.SIGKILL)
    eventually(lambda: mount.process.log().count("was killed by SIGKILL") == 2, "the second death")
    return mount


@needs_root
def test_an_upgrade_that_is_asked_for_while_nobody_serves(forsaken: Supervised) -> None:
    """It is the start of the next server."""
    told = json.loads(forsaken.upgrade().stdout)
    assert (told["server"], told["takeovers"]) == (forsaken.server, 2)


@needs_root
def test_a_swap_that_is_asked_for_while_nobody_serves(
    forsaken: Supervised, pack: Callable[..., Image], sandbox: Sandbox
) -> None:
    hang_up(forsaken.process.pid, sandbox.path / "backend", pack("update", update).flist)
    forsaken.upgrade()
    eventually(lambda: (forsaken.target / "fresh").exists(), "the new tree")


@needs_root
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_end_that_is_asked_for_while_nobody_serves(
    how: signal.Signals, forsaken: Supervised, sandbox: Sandbox
) -> None:
    forsaken.process.process.send_signal(how)
    assert forsaken.process.wait() == 0
    assert mounts_below(sandbox.path) == []
