"""Streams of sequential reads inside files."""

from __future__ import annotations

from zerofs.prefetch.readahead import FIRST_WINDOW, MOST_FILES, MOST_WINDOW, STREAMS, Readahead


def read_through(ahead: Readahead, row: int, count: int, start: int = 0) -> list[range]:
    return [ahead.touched(row, position, position, count) for position in range(start, count)]


def test_the_window_doubles_up_to_its_bound_and_asks_for_nothing_twice() -> None:
    asked = read_through(Readahead(), 1, 100)
    assert asked[:4] == [range(0), range(2, 4), range(4, 7), range(7, 12)]
    seen = [position for each in asked for position in each]
    assert seen == list(range(2, 100))
    assert max(len(each) for each in asked) <= MOST_WINDOW
    reach = [each.stop - position - 1 for position, each in enumerate(asked) if each]
    assert max(reach) == MOST_WINDOW
    assert reach[0] == FIRST_WINDOW


def test_one_read_in_the_middle_starts_nothing() -> None:
    ahead = Readahead()
    assert not ahead.touched(1, 50, 50, 100)
    assert not ahead.touched(1, 20, 21, 100)


def test_a_read_from_the_start_that_goes_on_is_a_stream() -> None:
    assert Readahead().touched(1, 0, 1, 100) == range(2, 4)


def test_nothing_is_asked_for_past_the_end() -> None:
    ahead = Readahead()
    asked = read_through(ahead, 1, 3)
    assert asked == [range(0), range(2, 3), range(3, 3)]
    assert not ahead.touched(2, 0, 0, 1)


def test_random_access_never_makes_a_stream_and_ends_those_there_are() -> None:
    ahead = Readahead()
    read_through(ahead, 1, 20)
    for position in (900, 300, 700, 100):
        assert not ahead.touched(1, position, position, 1000)
    assert not ahead.touched(1, 20, 20, 1000), "the stream was pushed out"
    assert ahead.touched(1, 21, 21, 1000) == range(22, 24), "a new one begins small"


def test_several_streams_in_one_file_at_once() -> None:
    ahead = Readahead()
    starts = [number * 1000 for number in range(STREAMS)]
    for step in range(4):
        asked = [ahead.touched(1, start + step, start + step, 10_000) for start in starts]
        assert all(bool(each) == (step > 0) for each in asked)


def test_streams_of_many_files_are_bounded() -> None:
    ahead = Readahead()
    for row in range(MOST_FILES + 1):
        ahead.touched(row, 5, 5, 100)
    assert not ahead.touched(0, 6, 6, 100), "the first file was forgotten"
    assert ahead.touched(MOST_FILES, 6, 6, 100)
