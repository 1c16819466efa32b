"""Servers that die again and again: when the mount is given up, and what can be asked of it until then."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.mount.conftest import Image
from tests.support.mounts import mounts_below
from tests.support.sandbox import Sandbox
from tests.support.waiting import eventually
from tests.takeover.conftest import Supervised
from zerofs.mount import deaths
from zerofs.mount.deaths import MOST, Deaths

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
KILLED = "import os; os.kill(os.getpid(), 9)"

Mount = Callable[..., Supervised]


def test_servers_that_fail_are_replaced_a_few_times() -> None:
    row, pauses = Deaths(), []
    while not row.are_hopeless(killed=False):
        row.add(quick=True)
        pauses.append(row.pause)
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8]


def test_a_server_that_served_begins_another_row() -> None:
    row = Deaths()
    for _ in range(MOST - 1):
        row.add(quick=True)
    row.add(quick=False)
    assert (row.number, row.pause) == (1, 0.0)
    for _ in range(MOST - 2):
        row.add(quick=True)
    assert not row.are_hopeless(killed=False)
    row.begin_anew()
    row.add(quick=True)
    assert row.pause == 0.0


def test_servers_that_are_killed_are_replaced_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(deaths.time, "monotonic", lambda: now)
    row, count = Deaths(), 0
    while not row.are_hopeless(killed=True):
        row.add(quick=True)
        now += row.pause + 0.25
        count += 1
    assert deaths.KILLED_SECONDS <= now - 1000.0 < deaths.KILLED_SECONDS + 3
    assert 15 < count < 25
    assert row.are_hopeless(killed=False)


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
    errors: list[OSError] = []

    def read() -> None:
        try:
            mount.check()
        except OSError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    in_a_row(mount, MOST + 2, next_server)
    reader.start()
    reader.join(60)
    assert not reader.is_alive() and not errors
    assert mount.stats()["mount"]["takeovers"] == 1
    assert mount.process.stop() == 0


@needs_root
def test_an_upgrade_that_is_asked_for_while_nobody_serves(
    image: Image, supervised: Mount, next_server: Callable[[str], None]
) -> None:
    mount = supervised(image)
    in_a_row(mount, MOST, next_server)
    told = json.loads(mount.upgrade().stdout)
    assert told["server"] == mount.server
    assert mount.stats()["mount"]["takeovers"] == 2, (
        "the one after the deaths, and the one that was asked for"
    )
    mount.check()


@needs_root
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_end_that_is_asked_for_while_nobody_serves(
    how: signal.Signals,
    image: Image,
    supervised: Mount,
    sandbox: Sandbox,
    next_server: Callable[[str], None],
) -> None:
    """It does not wait for the pause to be over."""
    mount = supervised(image)
    in_a_row(mount, MOST + 2, next_server)
    began = time.monotonic()
    mount.process.process.send_signal(how)
    assert mount.process.wait() == 0
    assert time.monotonic() - began < 30, "far more than a start takes"
    assert mounts_below(sandbox.path) == []
