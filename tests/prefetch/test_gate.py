"""The gate: prefetch may not get worse, and never gets in a reader's way; on a clock that only events move."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from tests.prefetch.simulation import BASELINE, COMPRESSION, Simulation, Trace, load_trace, measure, record
from tests.prefetch.support import NumberTree
from zerofs.fetch.budget import CHUNK
from zerofs.prefetch.merge import worth_replaying
from zerofs.store.link import MEMORY, RUN_DRY

TOLERANCE = 0.05
MORE_IS_WORSE = ("requests", "bytes")

TRACE = load_trace()
PROFILE = worth_replaying(record(TRACE))
LINKS = [(0.005, 12.5e6), (0.02, 12.5e6), (0.08, 12.5e6), (0.005, 125e6), (0.02, 125e6), (0.08, 125e6)]


def worse(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """What is worse than the baseline by more than the tolerance."""
    return [
        f"{name}: {found[name]} instead of {value}"
        for name, value in baseline.items()
        if (
            found[name] > value * (1 + TOLERANCE)
            if name in MORE_IS_WORSE
            else found[name] < value * (1 - TOLERANCE)
        )
    ]


def test_prefetch_is_as_good_as_it_was() -> None:
    baseline = json.loads(BASELINE.read_text())
    found = measure()
    assert found.keys() == baseline.keys()
    faults = [f"{name}: {fault}" for name in baseline for fault in worse(found[name], baseline[name])]
    assert faults == [], "if that is meant: python -m tests.prefetch.simulation"


def test_the_gate_closes() -> None:
    good = {"requests": 100, "bytes": 1000, "recall": 0.9, "precision": 0.9}
    assert worse({"requests": 105, "bytes": 1, "recall": 0.856, "precision": 1.0}, good) == []
    assert len(worse({"requests": 106, "bytes": 1051, "recall": 0.85, "precision": 0.85}, good)) == 4


def test_the_same_input_gives_the_same_numbers() -> None:
    assert measure() == measure()


def test_a_replay_of_its_own_recording_misses_hardly_anything() -> None:
    for rtt, bandwidth in LINKS:
        run = Simulation(TRACE, replay=PROFILE, rtt=rtt, bandwidth=bandwidth).run()
        assert run.plan.counters.recall >= 0.95
        assert run.plan.counters.precision >= 0.9


@pytest.mark.parametrize(("rtt", "bandwidth"), LINKS)
def test_no_demanded_chunk_waits_for_more_than_what_may_be_in_flight(rtt: float, bandwidth: float) -> None:
    unknown = [number for number in PROFILE if number % 3]  # the others are demanded meanwhile
    for replay in (PROFILE, unknown, list(reversed(PROFILE))):
        run = Simulation(TRACE, replay=replay, rtt=rtt, bandwidth=bandwidth).run()
        assert run.waits
        late = [wait for wait in run.waits if wait.seconds > wait.bound + 1e-9]
        assert late == []
        assert run.most_in_flight <= 1


def test_the_window_is_what_the_link_really_takes() -> None:
    for rtt, bandwidth in LINKS:
        run = Simulation(TRACE, replay=PROFILE, rtt=rtt, bandwidth=bandwidth).run()
        first_answer = CHUNK * COMPRESSION * 1.1  # is part of the delay that is measured
        assert run.budget.window(run.link) <= bandwidth * rtt + CHUNK + first_answer


LONG = 6000  # chunks: three minutes of a line of 100 Mbit/s


def long_replay(changes: Sequence[tuple[float, float, float]] = ()) -> Simulation:
    """Nobody reads anything but the first chunk of a large file, whose profile names all of it."""
    tree = NumberTree({0: list(range(LONG))}, dict.fromkeys(range(LONG), CHUNK))
    return Simulation(Trace(tree, [(0.0, 0, 0, 0)]), replay=range(LONG), changes=changes).run()


def bound(rtt: float, bandwidth: float) -> float:
    """On the window; the delay that is measured includes the first answer itself."""
    return bandwidth * rtt + CHUNK + CHUNK * COMPRESSION * 1.1


def test_the_window_of_a_long_replay_does_not_grow_with_the_queue_that_it_makes() -> None:
    run = long_replay()
    assert max(window for _, window in run.windows) <= bound(0.02, 12.5e6)
    assert run.now <= 1.03 * run.bytes / 12.5e6, "and still it keeps the line busy"


@pytest.mark.parametrize(
    ("rtt", "bandwidth"), [(0.02, 2.5e6), (0.08, 12.5e6), (0.2, 12.5e6), (0.005, 12.5e6)]
)
def test_the_window_follows_a_link_that_becomes_another(rtt: float, bandwidth: float) -> None:
    run = long_replay([(30.0, rtt, bandwidth)])
    settled = [window for at, window in run.windows if at > 30 + 2 * MEMORY + 2 * RUN_DRY]
    assert len(settled) > 100
    assert max(settled) <= bound(rtt, bandwidth)
    assert min(settled) >= 0.9 * (bandwidth * rtt + CHUNK)


def test_a_replay_takes_little_more_than_the_line_does() -> None:
    run = Simulation(TRACE, replay=PROFILE).run()
    line = run.bytes / 12.5e6
    assert run.now <= 1.5 * line + 2 * 0.02


def test_what_is_cached_is_not_requested() -> None:
    run = Simulation(TRACE, replay=PROFILE, cached=range(TRACE.tree.chunk_count)).run()
    assert (run.requests, run.bytes) == (0, 0)
    assert run.waits == []


def test_a_rate_is_kept() -> None:
    run = Simulation(TRACE, replay=PROFILE, rate=1e6).run()
    assert run.plan.counters.prefetched_bytes * COMPRESSION <= run.now * 1e6 + CHUNK
