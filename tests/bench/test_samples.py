"""Medians, quartiles and ratios."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.bench.samples import Spread, ratio, spread

times = st.floats(min_value=1e-6, max_value=1e6)


def rounds(*values):
    return dict(enumerate(values))


def test_a_spread_is_the_median_with_its_quartiles():
    assert spread([1.0, 5.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75, 2)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_an_outlier_moves_neither_the_median_nor_the_quartiles_far():
    assert spread([1.0] * 14 + [1000.0]) == Spread(1.0, 1.0, 1.0, 15)


def test_nothing_has_no_spread():
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_ratio_is_taken_round_by_round():
    # The machine is ten times slower in one round: each round's ratio is still 2.
    assert ratio(rounds(2.0, 20.0, 2.0), rounds(1.0, 10.0, 1.0)) == Spread(2.0, 2.0, 2.0, 3)


def test_rounds_in_which_one_took_no_part_do_not_count():
    assert ratio({0: 2.0, 2: 6.0}, rounds(1.0, 100.0, 3.0)) == Spread(2.0, 2.0, 2.0, 2)
    assert ratio({1: 1.0}, {2: 1.0}) is None


def test_no_ratio_without_a_base():
    assert ratio(rounds(1.0), {}) is None
    assert ratio({}, rounds(1.0)) is None
    assert ratio(rounds(1.0), rounds(0.0)) is None


def test_the_inverse_turns_times_into_speeds():
    assert Spread(0.5, 0.25, 1.0, 3).inverse() == Spread(2.0, 1.0, 4.0, 3)


@given(st.lists(times, min_size=1), times)
def test_a_spread_is_in_order_and_scales(values, factor):
    got = spread(values)
    assert min(values) <= got.low * (1 + 1e-9)
    assert got.low <= got.median * (1 + 1e-9)
    assert got.median <= got.high * (1 + 1e-9)
    scaled = spread([value * factor for value in values])
    assert scaled.median == pytest.approx(got.median * factor)


@given(st.lists(times, min_size=1))
def test_a_subject_is_once_itself(values):
    compared = ratio(rounds(*values), rounds(*values))
    assert compared == Spread(1.0, 1.0, 1.0, len(values))
