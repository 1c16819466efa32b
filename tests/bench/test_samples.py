"""Medians, spreads and ratios."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.bench.samples import Spread, ratio, spread

times = st.floats(min_value=1e-6, max_value=1e6)


def test_a_spread_is_the_median_with_its_bounds():
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert spread([1.0, 2.0]).median == 1.5


def test_nothing_has_no_spread():
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_ratio_is_taken_run_by_run():
    # The machine is ten times slower in one run: each run's ratio is still 2.
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 2.0)


def test_no_ratio_without_a_base():
    assert ratio([1.0], []) is None
    assert ratio([], [1.0]) is None
    assert ratio([1.0], [0.0]) is None


@given(st.lists(times, min_size=1), times)
def test_a_spread_is_in_order_and_scales(values, factor):
    got = spread(values)
    assert got.low <= got.median <= got.high
    scaled = spread([value * factor for value in values])
    assert scaled.median == pytest.approx(got.median * factor)


@given(st.lists(times, min_size=1))
def test_a_subject_is_once_itself(values):
    assert ratio(values, values) == Spread(1.0, 1.0, 1.0)
