"""Following files to what they need: the thread of the guesses, with guesses of the test's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fetch.support import until
from tests.prefetch.support import NumberTree
from zerofs.fetch.flight import Done
from zerofs.prefetch import following as following_module
from zerofs.prefetch.following import Following

BLOCK = 10
CHUNKS = {0: b"0123456789", 1: b"abcdefghij", 2: b"end", 3: b"other"}


class Index:
    """Two files: one of three chunks, one of one that cannot be had."""

    def __init__(self) -> None:
        self.map = NumberTree({0: [0, 1, 2], 1: [9]})

    def __len__(self) -> int:
        return 100

    def node(self, row: int) -> Any:
        return SimpleNamespace(size=23 if row == 0 else 5, block_size=BLOCK)


class Guesser:
    def __init__(self, read: Callable[[int, int, int], bytes | None]) -> None:
        self.read = read
        self.followed: list[int] = []
        self.got: list[bytes | None] = []
        self.asks: list[tuple[int, int, int]] = []

    def steps(self, row: int) -> Iterator[list[int]]:
        self.followed.append(row)
        self.got += [self.read(*ask) for ask in self.asks]
        if row == 99:
            raise KeyError(row)
        yield [row + 100]


class Bench:
    """A `Following` with everything around it played."""

    def __init__(self, *, answers: bool = True) -> None:
        self.suggested: list[int] = []
        self.guesser: Guesser
        self.answers = answers
        self.following = Following(
            Index(),  # type: ignore[arg-type]
            self.bytes_of,
            lambda numbers: self.suggested.extend(numbers),
            self.make,
        )
        self.asks: list[tuple[int, int, int]] = []

    def make(self, index: object, read: Callable[[int, int, int], bytes | None]) -> Guesser:
        self.guesser = Guesser(read)
        self.guesser.asks = self.asks
        return self.guesser

    def bytes_of(self, number: int, done: Done) -> None:
        if self.answers:
            done(CHUNKS.get(number), None)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.following.close(5)


def test_what_is_guessed_is_suggested_file_by_file(bench: Bench) -> None:
    for row in (4, 5, 6):
        bench.following.begun(row)
    until(lambda: bench.suggested == [104, 105, 106])


def test_files_that_came_with_a_swap_are_not_followed(bench: Bench) -> None:
    bench.following.swap(Index())  # type: ignore[arg-type]
    bench.following.begun(100)
    bench.following.begun(4)
    until(lambda: bench.suggested == [104])


def test_a_guess_reads_parts_of_files(bench: Bench) -> None:
    bench.asks = [(0, 0, 4), (0, 8, 4), (0, 18, 100), (0, 23, 1), (0, 5, 18), (1, 0, 5)]
    bench.following.begun(0)
    until(lambda: bool(bench.suggested))
    assert bench.guesser.got == [b"0123", b"89ab", b"ijend", b"", b"56789abcdefghijend", None]


def test_a_guess_that_breaks_ends_guessing_and_nothing_else(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        bench.following.begun(99)
        until(lambda: bool(caplog.records))
    bench.following.begun(1)
    assert bench.suggested == []


def test_files_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "MOST_BEGUN", 3)
    bench = Bench(answers=False)
    bench.asks = [(0, 0, 1)]
    bench.following.begun(0)
    until(lambda: hasattr(bench, "guesser") and bench.guesser.followed == [0])
    for row in range(10):
        bench.following.begun(row)
    assert len(bench.following._begun) == 3
    bench.following.close(5)  # ends a wait for a chunk that never comes
    assert bench.guesser.got == [None]
