"""Waiting for what ends a mount, with the real signals and the real end of file systems."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.overlay.conftest import Join, Server
from tests.support.refreshing import refresh
from tests.support.sandbox import Sandbox
from zerofs.mount._linux import MS_BIND, mount
from zerofs.mount.unmount import unmount
from zerofs.mount.watch import Event, Interrupted, Watch

STUCK_SECONDS = 20.0  # then a test that waits for what does not come gets SIGINT, and fails


@pytest.fixture
def events() -> Iterator[tuple[Watch, Iterator[Event]]]:
    """A watch, and what it sees."""
    alarm = threading.Timer(STUCK_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    with Watch() as watch:
        alarm.start()
        yield watch, watch.events()
        alarm.cancel()
        alarm.join()


Events = tuple[Watch, Iterator[Event]]


@pytest.mark.parametrize(
    ("number", "event"),
    [(signal.SIGTERM, Event.TERM), (signal.SIGINT, Event.INT), (signal.SIGHUP, Event.HUP)],
)
def test_signals(events: Events, number: signal.Signals, event: Event) -> None:
    for _ in range(2):
        os.kill(os.getpid(), number)
        assert next(events[1]) is event


def test_signals_that_came_before_the_wait_are_not_lost(events: Events) -> None:
    for number in (signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert {next(events[1]), next(events[1])} == {Event.HUP, Event.TERM}


def test_a_signal_that_another_thread_received_interrupts_a_wait_for_a_server() -> None:
    ours, _silent = socket.socketpair()
    ours.settimeout(STUCK_SECONDS)

    def receive_the_signal() -> None:
        time.sleep(0.1)  # by then the main thread waits, most likely
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    with Watch() as watch, ours, _silent:
        began = time.monotonic()
        with pytest.raises(Interrupted), watch.interruptible():
            threading.Thread(target=receive_the_signal).start()
            ours.recv(1)
        assert time.monotonic() - began < STUCK_SECONDS  # not when the wait was over anyway
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_signal_that_meets_a_finaliser_is_not_lost() -> None:
    class Response:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    with Watch() as watch:
        began = time.monotonic()
        with pytest.raises(Interrupted), watch.interruptible():
            Response()
            time.sleep(STUCK_SECONDS)
        assert time.monotonic() - began < STUCK_SECONDS
        assert sys.unraisablehook is not watch._dropped


def test_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    descriptors = len(os.listdir("/proc/self/fd"))
    with Watch():
        assert signal.getsignal(signal.SIGINT) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert signal.set_wakeup_fd(-1) == -1


def test_unmounting_is_seen_and_never_busy(events: Events, sandbox: Sandbox) -> None:
    place = sandbox.directory("here")
    mount("none", place, "tmpfs")
    watch, seen = events
    watch.add_mount(place)
    subprocess.run(["umount", place], check=True)  # not lazily: fails where the watch held anything
    assert next(seen) is Event.UNMOUNTED


def test_a_union_over_a_server_that_is_unmounted_from_outside(events: Events, join: Join) -> None:
    watch, seen = events
    with join() as union:
        watch.add_mount(union.target)
        refresh(union.overlay)
        subprocess.run(["umount", union.target], check=True)
        assert next(seen) is Event.UNMOUNTED


def test_a_served_tree_that_is_unmounted_by_fusermount(
    events: Events, sandbox: Sandbox, serve: Callable[[Path], Server]
) -> None:
    watch, seen = events
    place = sandbox.directory("ro")
    serve(place)
    watch.add_mount(place)
    subprocess.run(["fusermount", "-u", place], check=True)
    assert next(seen) is Event.UNMOUNTED


def test_another_namespace_holds_the_mount(events: Events, sandbox: Sandbox) -> None:
    place = sandbox.directory("here")
    mount("none", place, "tmpfs")
    watch, seen = events
    watch.add_mount(place)
    script = "mount --make-rprivate /; echo held; read rest"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        unmount(place)
        os.kill(os.getpid(), signal.SIGHUP)
        assert next(seen) is Event.HUP  # the unmount would stand first
        holder.communicate(b"\n")
    assert next(seen) is Event.UNMOUNTED


def test_another_mount_of_the_same_tree_holds_it(events: Events, sandbox: Sandbox) -> None:
    place, other = sandbox.directory("here"), sandbox.directory("other")
    mount("none", place, "tmpfs")
    mount(place, other, None, MS_BIND)
    watch, seen = events
    watch.add_mount(place)
    unmount(place)
    os.kill(os.getpid(), signal.SIGHUP)
    assert next(seen) is Event.HUP
    unmount(other)
    assert next(seen) is Event.UNMOUNTED


def test_the_end_of_a_helper_is_told_once(events: Events) -> None:
    watch, seen = events
    helper = subprocess.Popen(["sleep", "1000"])
    watch.add_helper(helper.pid)
    helper.kill()
    helper.wait()
    assert next(seen) is Event.HELPER_ENDED
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGHUP)
        assert next(seen) is Event.HUP


def test_a_wait_with_an_end(events: Events) -> None:
    assert events[0].wait(0) == []
    os.kill(os.getpid(), signal.SIGHUP)
    assert events[0].wait(60) == [Event.HUP]
