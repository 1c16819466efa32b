from __future__ import annotations

import threading

import pytest

from tests.store.conftest import Clock, within
from zerofs.store import backoff, breaker
from zerofs.store.backoff import Backoff
from zerofs.store.breaker import Breaker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker, "time", clock)
    return clock


def fail(tested: Breaker, times: int = breaker.THRESHOLD) -> None:
    for _ in range(times):
        tested.failed()


def test_it_opens_after_consecutive_failures_only(clock: Clock) -> None:
    tested = Breaker()
    for _ in range(10):
        fail(tested, breaker.THRESHOLD - 1)
        assert tested.is_suspect and not tested.is_open
        tested.succeeded()
    assert not tested.is_suspect
    fail(tested)
    assert tested.is_open


def test_one_probe_at_a_time_and_ever_later(clock: Clock) -> None:
    tested = Breaker()
    assert not tested.claim_probe()
    fail(tested)
    pauses = []
    for _ in range(8):
        waited = 0.0
        while not tested.claim_probe():
            clock.now += 0.5
            waited += 0.5
        assert not tested.claim_probe()
        pauses.append(waited)
        tested.failed()
    assert pauses[0] == breaker.FIRST_PAUSE
    assert pauses == sorted(pauses) and pauses[-1] == breaker.LONGEST_PAUSE
    tested.succeeded()
    fail(tested)
    clock.now += breaker.FIRST_PAUSE
    assert tested.claim_probe()


def test_it_gives_up_waiting_after_a_long_outage_and_forgets_old_ones(clock: Clock) -> None:
    tested = Breaker()
    for _ in range(100):
        tested.failed()
        if tested.is_given_up:
            break
        clock.now += 1
    assert clock.now - 1000 == breaker.PATIENCE
    clock.now += breaker.PATIENCE + 1
    tested.failed()
    assert not tested.is_given_up and not tested.is_open


def test_it_is_given_up_once_a_reader_waited_in_vain(clock: Clock) -> None:
    tested = Breaker()
    began = clock.now
    tested.failed()
    tested.give_up(began)  # no time to answer in
    assert not tested.is_given_up
    clock.now += breaker.TRIAL
    tested.succeeded()  # to another reader
    tested.failed()
    tested.give_up(began)
    assert not tested.is_given_up
    tested.give_up(began := clock.now)
    clock.now += breaker.TRIAL
    tested.give_up(began + 0.1)
    assert not tested.is_given_up
    tested.failed()
    clock.now += breaker.TRIAL
    tested.give_up(began + 0.1)
    assert tested.is_given_up
    clock.now += 10 * breaker.PATIENCE
    tested.failed()
    assert tested.is_given_up  # until it answers
    tested.succeeded()
    assert not tested.is_given_up


def test_what_never_failed_is_not_given_up(clock: Clock) -> None:
    tested = Breaker()
    clock.now += breaker.TRIAL
    tested.give_up(0.0)
    assert not tested.is_given_up


def test_pauses_grow_and_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            self.pauses: list[float] = []

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            self.pauses.append(timeout)
            return False

    recorder = Recorder()
    tested = Backoff()
    assert all(tested.wait(within(100), recorder) for _ in range(12))
    assert recorder.pauses[0] <= backoff.FIRST
    assert all(pause <= backoff.LONGEST for pause in recorder.pauses)
    assert recorder.pauses[-1] >= backoff.LONGEST / 2
    assert not tested.wait(within(0.1), recorder)
    interrupted = threading.Event()
    interrupted.set()
    assert not Backoff().wait(within(100), interrupted)
