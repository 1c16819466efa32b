"""Delay and bandwidth of the way to a store, on a clock of the test's own."""

from __future__ import annotations

import pytest

from zerofs.store.link import MEMORY, RUN_DRY, Asked, Link, link_to
from zerofs.store.url import parse_store_url


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def exchange(link: Link, clock: Clock, size: int, delay: float, bandwidth: float) -> None:
    """A request, an answer of a few bytes after `delay`, and `size` bytes at the rate of the way."""
    asked = link.begin(clock.now)
    clock.now += delay
    link.arrived(asked, clock.now, 0)
    clock.now += size / bandwidth
    link.arrived(asked, clock.now, size)
    link.end(asked)


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


def test_what_waits_in_line_behind_others_does_not_measure_the_way() -> None:
    clock, link = Clock(), Link()
    exchange(link, clock, 1_000_000, 0.02, 10_000_000)
    waiting = [link.begin(clock.now)]
    while clock.now < 100 + MEMORY + RUN_DRY - 0.5:
        waiting.append(link.begin(clock.now))
        clock.now += 0.25
        link.arrived(waiting[0], clock.now, 2_500_000)
        link.end(waiting.pop(0))
    assert link.delay == pytest.approx(0.02)


def test_where_nothing_goes_alone_for_too_long_any_request_measures() -> None:
    clock, link = Clock(), Link()
    exchange(link, clock, 1_000_000, 0.02, 10_000_000)
    hanging = link.begin(clock.now)
    clock.now += MEMORY + 0.1
    assert clock.now < link.dry_until(clock.now) <= clock.now + RUN_DRY
    exchange(link, clock, 1000, 0.3, 1e6)
    assert link.delay == pytest.approx(0.02), "it may run dry yet"
    clock.now += RUN_DRY
    assert link.dry_until(clock.now) <= clock.now
    exchange(link, clock, 1000, 0.3, 1e6)
    assert link.delay == pytest.approx(0.3)
    link.end(hanging)


def test_what_has_piled_up_while_we_were_busy_says_nothing_of_the_rate() -> None:
    """Answers come at 1 MB/s.  Now and then nobody looks for a while, and all that came is taken at once."""
    clock, link = Clock(), Link()
    line = clock.now  # when the line will have brought all that was asked for
    flying: list[tuple[float, Asked]] = []
    for step in range(400):
        while len(flying) < 20:
            line = max(line, clock.now + 0.02) + 0.01
            flying.append((line, link.begin(clock.now)))
        clock.now += 0.3 if step % 50 == 49 else 0.005
        while flying and flying[0][0] <= clock.now:
            _, asked = flying.pop(0)
            link.arrived(asked, clock.now, 10_000)
            link.end(asked)
            # one that answers at once takes its place, before the others are looked at
            line = max(line, clock.now + 0.02) + 0.01
            flying.append((line, link.begin(clock.now)))
    assert 900_000 < link.bandwidth <= 1_100_000


def test_equal_urls_share_a_link() -> None:
    one, other = parse_store_url("redis://10.0.0.1"), parse_store_url("redis://10.0.0.2")
    assert link_to(one) is link_to(parse_store_url("redis://10.0.0.1:6379"))
    assert link_to(one) is not link_to(other)
