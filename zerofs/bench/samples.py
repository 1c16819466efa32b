"""What is said of repeated measurements: a median, its quartiles, and how it compares with another's.

Rounds are interleaved, so the n-th value of two subjects was taken under like conditions: a ratio is taken
within each round, and the median of those is what is reported, not the ratio of two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Samples = Mapping[int, float]  # round → value; a round in which a subject took no part is missing


class Spread(NamedTuple):
    """A median, the quartiles around it, and how many rounds they come from."""

    median: float
    low: float
    high: float
    rounds: int

    def inverse(self) -> Spread:
        """The spread of the reciprocals."""
        return Spread(1 / self.median, 1 / self.high, 1 / self.low, self.rounds)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, 6) for name, value in self._asdict().items()}


def spread(values: Sequence[float]) -> Spread:
    """The spread of one value or more; quartiles lie between the values around them."""
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def ratio(samples: Samples, base: Samples) -> Spread | None:
    """How many times `base` the `samples` are, round by round; None where no round has both, or a base is zero."""
    rounds = samples.keys() & base.keys()
    if not rounds or any(base[number] == 0 for number in rounds):
        return None
    return spread([samples[number] / base[number] for number in sorted(rounds)])
