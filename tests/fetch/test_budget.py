"""The bound on what is in flight, and what it is measured by, on a clock of the test's own."""

from __future__ import annotations

import pytest

from zerofs.fetch.budget import CHUNK, Budget
from zerofs.fetch.link import MEMORY, Link


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def exchange(link: Link, clock: Clock, size: int, delay: float, bandwidth: float, plain: int = 0) -> None:
    """A request, and its answer in one piece over a link of this kind."""
    mark = link.begin(clock.now)
    clock.now += delay
    link.answered(mark, clock.now)
    clock.now += size / bandwidth
    link.arrived(mark, clock.now, size, plain or size)


def test_delay_and_bandwidth_are_found_from_answers() -> None:
    clock, link = Clock(), Link()
    assert (link.delay, link.bandwidth) == (0, 0)
    exchange(link, clock, 10_000_000, 0.02, 10_000_000)
    assert link.delay == pytest.approx(0.02)
    assert link.bandwidth == pytest.approx(10_000_000, rel=0.03)


def test_a_slow_moment_does_not_count_but_a_slow_link_does() -> None:
    clock, link = Clock(), Link()
    exchange(link, clock, 1_000_000, 0.02, 10_000_000)
    exchange(link, clock, 1_000, 0.5, 1_000)
    assert link.delay == pytest.approx(0.02)
    assert link.bandwidth > 8_000_000
    for _ in range(40):
        exchange(link, clock, 100_000, 0.2, 1_000_000)
    assert clock.now > 100 + MEMORY
    assert link.delay == pytest.approx(0.2)
    assert link.bandwidth < 1_000_000


def test_nothing_is_forgotten_for_lack_of_anything_newer() -> None:
    clock, link = Clock(), Link()
    exchange(link, clock, 1_000_000, 0.02, 10_000_000)
    clock.now += 10 * MEMORY
    assert link.delay == pytest.approx(0.02)


def test_the_window_is_bandwidth_times_delay_and_one_chunk() -> None:
    clock = Clock()
    budget = Budget(clock)
    assert budget.window == CHUNK
    exchange(budget.link, clock, 10_000_000, 0.02, 10_000_000)
    assert budget.window == pytest.approx(10_000_000 * 0.02 + CHUNK, rel=0.05)


def test_it_is_compressed_bytes_that_count() -> None:
    clock = Clock()
    budget = Budget(clock)
    for _ in range(100):
        exchange(budget.link, clock, 1000, 0.02, 1e6, plain=4000)
    assert budget.cost(CHUNK) == pytest.approx(CHUNK / 4, rel=0.01)
    assert budget.room() * 0.25 == pytest.approx(budget.window, rel=0.01)
    assert budget.window >= CHUNK, "the next one may not compress"


def test_there_is_no_room_for_less_than_a_chunk() -> None:
    budget = Budget(Clock())
    assert budget.room() == CHUNK
    budget.take(1)
    assert budget.room() == 0
    budget.give(1)
    assert budget.room() == CHUNK


def test_memory_bounds_what_the_link_would_take() -> None:
    clock = Clock()
    budget = Budget(clock, most=1 << 20)
    exchange(budget.link, clock, 100_000_000, 0.5, 1e9)
    assert budget.window == 1 << 20


def test_a_rate_spreads_what_is_asked_for() -> None:
    clock = Clock()
    budget = Budget(clock, rate=1_000_000)
    budget.take(500_000)
    budget.give(500_000)
    assert budget.room() == 0
    assert budget.pause() == pytest.approx(0.5)
    clock.now += 0.5
    assert budget.room() == CHUNK
    asked, until = 0, clock.now + 10
    while clock.now < until:
        if room := budget.room():
            budget.take(room)
            budget.give(room)
            asked += room
        clock.now += 0.01
    assert asked <= 10 * 1_000_000 + CHUNK
