"""What is said of repeated measurements: a median, its spread, and how it compares with another's.

Runs are interleaved, so the n-th value of two subjects was taken under like conditions: a ratio is taken
within each run, and the median of those is what is reported, not the ratio of two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A median with the least and the greatest value."""

    median: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, 6) for name, value in self._asdict().items()}


def spread(values: Sequence[float]) -> Spread:
    """The spread of one value or more."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values))


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread | None:
    """How many times `base` the `values` are, run by run; None where no run has both, or a base is zero."""
    pairs = list(zip(values, base, strict=False))
    if not pairs or any(divisor == 0 for _, divisor in pairs):
        return None
    return spread([value / divisor for value, divisor in pairs])
