"""How long things took: the histogram beside a plain list, and what the fetcher puts into one."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fetch.support import FakeRouter, plain_of, until
from zerofs.errors import ZerofsError
from zerofs.fetch.fetcher import Fetcher
from zerofs.histogram import SHARES, Histogram, quantile

DURATIONS = st.floats(0, 4000, allow_nan=False) | st.floats(0, 0.01)


@given(st.lists(DURATIONS, min_size=1, max_size=60))
def test_quantiles_beside_a_sorted_list(durations: list[float]) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    found: dict[str, Any] = histogram.as_dict()
    assert found["count"] == len(durations) == sum(count for _, count in found["buckets"])
    assert found["max"] == max(durations)
    assert found["mean"] == pytest.approx(sum(durations) / len(durations))
    for name, share in SHARES.items():
        true = sorted(durations)[math.ceil(share * len(durations)) - 1]
        assert true <= found[name] <= true * (1 + 1 / 16) + 1e-6


def test_buckets_rise_and_nothing_falls_out() -> None:
    histogram = Histogram()
    for exponent in range(-70, 200):
        histogram.add(10 ** (exponent / 10))
    buckets: Any = histogram.as_dict()["buckets"]
    uppers = [upper for upper, _ in buckets]
    assert uppers == sorted(uppers)
    assert sum(count for _, count in buckets) == 270


def test_nothing_was_measured() -> None:
    empty = Histogram().as_dict()
    assert empty["count"] == 0 and empty["p99"] is None and empty["max"] is None
    assert quantile([], 0.5) == 0.0


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Time stands still but when a test moves it: ``clock.now``."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    for module in ("fetcher", "flights", "delivery"):
        monkeypatch.setattr(f"zerofs.fetch.{module}.time", clock)
    return clock


def test_a_demanded_chunk_counts_from_the_first_who_wanted_it(router: FakeRouter, clock: Any) -> None:
    chunk = router.add(1)
    router.gate.clear()
    fetcher = Fetcher(router, None, timeout=60)
    arrived: list[bytes | None] = []
    fetcher.submit(chunk, lambda plain, error: arrived.append(plain))
    router.entered.acquire()
    clock.now += 2
    fetcher.submit(chunk, lambda plain, error: arrived.append(plain))
    clock.now += 1
    router.gate.set()
    until(lambda: len(arrived) == 2)
    latency = fetcher.latency()
    assert latency["count"] == 1 and latency["max"] == 3.0
    assert fetcher.read(chunk) == plain_of(1)  # from memory: nobody waits
    assert fetcher.latency()["count"] == 1
    fetcher.close()


def test_a_background_chunk_counts_from_when_a_reader_wants_it(router: FakeRouter, clock: Any) -> None:
    alone, wanted = router.add(1), router.add(2)
    router.gate.clear()
    fetcher = Fetcher(router, None, timeout=60)
    fetcher.request([alone, wanted])
    router.entered.acquire()
    clock.now += 5
    reader = threading.Thread(target=fetcher.read, args=(wanted,))
    reader.start()
    until(lambda: fetcher.stats().joined == 1)
    clock.now += 1
    router.gate.set()
    reader.join()
    until(lambda: fetcher.stats().fetched == 2)
    assert fetcher.latency()["count"] == 1 and fetcher.latency()["max"] == 1.0
    fetcher.close()


def test_what_failed_has_no_latency(router: FakeRouter) -> None:
    chunk = router.add(1)
    router.payloads.clear()
    fetcher = Fetcher(router, None)
    with pytest.raises(ZerofsError):
        fetcher.read(chunk)
    assert fetcher.latency()["count"] == 0 and fetcher.stats().failures == 1
    fetcher.close()
