"""Which replica is asked first, and when one is late: by a clock that the test moves."""

from __future__ import annotations

import pytest

from tests.store.conftest import Clock
from zerofs.store import latency
from zerofs.store.latency import Latency, fastest_first


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def measured(clock: Clock, *waits: float) -> Latency:
    tested = Latency()
    for seconds in waits:
        tested.asked()
        clock.now += seconds
        tested.answered(seconds)
    return tested


def order(*waits: Latency) -> list[int]:
    return fastest_first(range(len(waits)), waits.__getitem__)


def test_the_faster_one_comes_first_and_equals_stay_in_order(clock: Clock) -> None:
    slow, quick, as_quick = (measured(clock, *[each] * 9) for each in (0.2, 0.02, 0.025))
    assert order(slow, quick, as_quick) == [1, 2, 0]
    assert order(as_quick, quick, slow) == [0, 1, 2]
    assert order(quick, as_quick, slow) == [0, 1, 2]
    assert order() == []


def test_differences_that_are_noise_change_nothing(clock: Clock) -> None:
    assert order(measured(clock, *[latency.SLACK * 0.9] * 9), measured(clock, *[0.0001] * 9)) == [0, 1]


def test_one_of_which_too_little_is_known_is_found_out_about(clock: Clock) -> None:
    known = measured(clock, *[0.05] * 9)
    assert order(known, Latency()) == [1, 0]
    assert order(known, measured(clock, *[9.0] * (latency.FEW - 1))) == [1, 0]
    assert order(known, measured(clock, *[9.0] * latency.FEW)) == [0, 1]


def test_what_was_slow_is_tried_again_after_a_while_by_one_request(clock: Clock) -> None:
    quick, slow = measured(clock, *[0.01] * 9), measured(clock, *[0.1] * 9)
    waited = 0.0
    while order(slow, quick) == [1, 0]:
        clock.now += 1
        waited += 1
        quick.asked()
        quick.answered(0.01)
        assert waited < 100
    assert waited > latency.HALF_LIFE
    slow.asked()
    assert order(slow, quick) == [1, 0], "the others do not follow before it has answered"
    for _ in range(20):
        slow.answered(0.01)
    assert order(slow, quick) == [0, 1]


def test_failures_count_by_the_time_that_they_took_and_never_help(clock: Clock) -> None:
    first, second = (measured(clock, *[0.01] * 9) for _ in range(2))
    first.failed(5.0)
    assert order(first, second) == [1, 0]
    second.failed(0.0)
    assert second.expected == pytest.approx(0.01)


def test_answers_that_are_no_help_count_double(clock: Clock) -> None:
    first, second = (measured(clock, *[0.01] * 9) for _ in range(2))
    for _ in range(20):
        first.answered(0.01)
        first.useless()
    assert order(first, second) == [1, 0]
    assert first.expected < 0.1


def test_late_is_what_nearly_all_are_not(clock: Clock) -> None:
    tested = measured(clock, *[0.01] * (latency.ENOUGH - 1))
    assert tested.late == latency.UNKNOWN
    tested.answered(0.01)
    assert tested.late == 0.01
    for _ in range(10):
        for _ in range(97):
            tested.answered(0.01)
        for _ in range(3):
            tested.answered(2.0)
    assert tested.late == 0.01, "three in a hundred are outliers"
    for _ in range(latency.WINDOW):
        tested.answered(0.5)
    assert tested.late == 0.5, "what all take is not late"
    tested.failed(9.0)
    assert tested.late == 0.5
