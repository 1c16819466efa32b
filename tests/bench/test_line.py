"""The arithmetic of an emulated link, at moments that are made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.bench.line import QUEUE, Conditions, Line

PLAIN = Conditions(rtt=0.02, rate=1000.0)
puts = st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 2)), min_size=1, max_size=50)


def test_a_piece_takes_its_share_of_the_rate_and_then_the_delay():
    assert Line(PLAIN).put(100, 7.0) == pytest.approx(7.0 + 0.1 + 0.01)
    assert PLAIN.seconds(100, round_trips=2) == pytest.approx(0.1 + 0.04)


def test_what_is_put_at_once_comes_out_one_after_the_other():
    line = Line(PLAIN)
    assert [line.put(100, 0.0) for _ in range(3)] == pytest.approx([0.11, 0.21, 0.31])


def test_a_caller_that_comes_late_loses_nothing_while_something_is_queued():
    punctual, late = Line(PLAIN), Line(PLAIN)
    for piece in range(100):
        expected = punctual.put(5, 0.005 * piece)
        got = late.put(5, 0.005 * piece + (0.004 if piece % 2 else 0.0))
        assert got <= expected + 0.004 + 1e-9  # never later than the caller itself


def test_a_queue_that_is_ahead_hides_a_late_caller_entirely():
    line = Line(PLAIN)
    line.put(100, 0.0)  # until 0.1
    assert line.put(100, 0.099) == pytest.approx(0.21)


def test_an_idle_line_saves_nothing_up():
    line = Line(PLAIN)
    line.put(100, 0.0)
    assert [line.put(100, 50.0), line.put(100, 50.0)] == pytest.approx([50.11, 50.21])


def test_it_opens_as_soon_as_the_queue_is_short_enough():
    line = Line(PLAIN)
    assert line.opens() <= 0
    line.put(100, 3.0)
    assert line.opens() == pytest.approx(3.1 - QUEUE)


def test_the_end_of_a_connection_comes_after_its_bytes():
    line = Line(PLAIN)
    last = line.put(100, 0.0)
    assert line.put(0, 0.0) >= last


@pytest.mark.parametrize(("rate", "piece"), [(1e3, 1448), (12.5e6, 6250), (125e6, 62500), (1e12, 65536)])
def test_pieces_are_small_against_the_delay_and_worth_a_call(rate, piece):
    assert Line(Conditions(0.02, rate)).piece == piece


@given(puts, st.floats(0, 0.1))
def test_no_bytes_come_early_or_overtake(pieces, jitter):
    line = Line(PLAIN._replace(jitter=jitter))
    out, begun, total = 0.0, 0.0, 0
    for size, now in sorted(pieces, key=lambda piece: piece[1]):
        busy_until = begun + total / PLAIN.rate
        if now > busy_until:
            begun, total = now, 0
        total += size
        came = line.put(size, now)
        earliest = begun + total / PLAIN.rate + PLAIN.rtt / 2
        assert earliest - 1e-6 <= came <= earliest + jitter + 1e-6
        assert came >= out
        out = came


def test_jitter_is_the_same_in_every_run():
    conditions = Conditions(0.02, 1e6, jitter=0.01)
    first, second = Line(conditions, seed=3), Line(conditions, seed=3)
    moments = [first.put(10, number) for number in range(20)]
    assert moments == [second.put(10, number) for number in range(20)]
    assert len({round(moment - number, 6) for number, moment in enumerate(moments)}) > 10
