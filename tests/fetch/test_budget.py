"""The bound on what is in flight, on a clock of the test's own."""

from __future__ import annotations

import pytest

from tests.store.test_link import Clock, exchange
from zerofs.fetch.budget import CHUNK, Budget
from zerofs.store.link import MEMORY, RUN_DRY, Link


def test_the_window_is_bandwidth_times_delay_and_one_chunk() -> None:
    clock, link = Clock(), Link()
    budget = Budget(clock)
    assert budget.window(link) == CHUNK
    exchange(link, clock, 10_000_000, 0.02, 10_000_000)
    assert budget.window(link) == pytest.approx(10_000_000 * 0.02 + CHUNK, rel=0.05)


def test_each_store_has_a_window_of_its_own() -> None:
    clock, near, far = Clock(), Link(), Link()
    budget = Budget(clock)
    exchange(near, clock, 10_000_000, 0.001, 100e6)
    exchange(far, clock, 100_000_000, 0.08, 12.5e6)
    assert budget.window(near) == pytest.approx(100_000 + CHUNK, rel=0.05)
    assert budget.window(far) == pytest.approx(1_000_000 + CHUNK, rel=0.05)
    budget.take(near, budget.cost(budget.room(near)))
    assert budget.room(near) == 0
    assert budget.room(far) == budget.window(far), "one that is full stops no other"
    budget.take(far, budget.window(far))
    assert (budget.room(near), budget.room(far)) == (0, 0)
    budget.give(far, budget.window(far))
    assert budget.room(far) == budget.window(far)
    assert budget.room(near) == 0


def test_it_is_compressed_bytes_that_count() -> None:
    clock, link = Clock(), Link()
    budget = Budget(clock)
    exchange(link, clock, 1_000_000, 0.02, 1e6)
    for _ in range(100):
        budget.take(link, 4000)
        budget.give(link, 4000 - budget.arrived(link, 4000, 1000, 4000))
    assert budget.cost(CHUNK) == pytest.approx(CHUNK / 4, rel=0.01)
    assert budget.room(link) * 0.25 == pytest.approx(budget.window(link), rel=0.01)
    assert budget.window(link) >= CHUNK, "the next one may not compress"


def test_there_is_no_room_for_less_than_a_chunk() -> None:
    budget, link = Budget(Clock()), Link()
    assert budget.room(link) == CHUNK
    budget.take(link, 1)
    assert budget.room(link) == 0
    budget.give(link, 1)
    assert budget.room(link) == CHUNK


def test_memory_bounds_what_the_ways_would_take_together() -> None:
    clock, link, other = Clock(), Link(), Link()
    budget = Budget(clock, most=1 << 20)
    exchange(link, clock, 100_000_000, 0.5, 1e9)
    exchange(other, clock, 100_000_000, 0.5, 1e9)
    assert budget.window(link) == 1 << 20
    budget.take(link, 600_000)
    assert budget.room(other) == 0
    budget.give(link, 100_000)
    assert budget.room(other) == (1 << 20) - 500_000


def test_a_rate_spreads_what_is_asked_for_of_all_stores() -> None:
    clock, links = Clock(), [Link(), Link()]
    budget = Budget(clock, rate=2_000_000)
    budget.limit(1_000_000)
    budget.limit(3_000_000)
    budget.take(links[0], 500_000)
    budget.give(links[0], 500_000)
    assert [budget.room(link) for link in links] == [0, 0]
    exchange(links[0], Clock(), 100_000_000, 0.5, 1e9)
    assert budget.window(links[0]) > 8 * CHUNK
    assert budget.pause(links[1]) == pytest.approx(0.5)
    clock.now += 0.5
    assert budget.room(links[1]) == CHUNK
    asked, until = 0, clock.now + 10
    while clock.now < until:
        for link in links:
            if room := budget.room(link):
                budget.take(link, room)
                assert room == CHUNK, "however much the way would take"
                budget.give(link, room)
                asked += room
        clock.now += 0.01
    assert asked <= 10 * 1_000_000 + CHUNK


def test_a_rate_is_one_of_bytes_that_came() -> None:
    """However well or badly they were estimated before."""
    for share in (0.1, 0.6, 1.0):
        clock, link = Clock(), Link()
        budget = Budget(clock, rate=1_000_000)
        begun, came = clock.now, 0
        while clock.now < begun + 20:
            if room := budget.room(link):
                cost = budget.cost(room)
                budget.take(link, cost)
                payload = round(room * share)
                budget.give(link, cost - budget.arrived(link, cost, payload, room))
                came += payload
            clock.now += 0.005
        assert came == pytest.approx(20e6, rel=0.05)


def test_a_way_that_was_busy_for_long_is_let_run_dry_so_that_its_delay_can_be_measured() -> None:
    clock, link = Clock(), Link()
    budget = Budget(clock)
    exchange(link, clock, 1_000_000, 0.1, 10_000_000)
    asked = link.begin(clock.now)
    budget.take(link, 1000)
    assert budget.room(link)
    clock.now += MEMORY
    assert budget.room(link) == 0
    assert 0 < budget.pause(link) <= RUN_DRY
    assert budget.room(Link()), "no other has to wait"
    link.end(asked)
    budget.give(link, 1000)
    assert budget.room(link)
    assert budget.pause(link) == 0


def test_one_that_does_not_run_dry_is_not_waited_for_any_longer() -> None:
    clock, link = Clock(), Link()
    budget = Budget(clock)
    exchange(link, clock, 10_000_000, 0.1, 10_000_000)
    link.begin(clock.now)
    budget.take(link, 1000)
    clock.now += MEMORY + RUN_DRY + 0.1
    assert budget.room(link)
