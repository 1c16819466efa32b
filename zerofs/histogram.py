"""How long things take: durations counted in buckets, from which quantiles are read.

Place: below everything that measures, the fetcher and the destinations of a router.  Of a fixed size whatever
happens: sixteen buckets for each doubling, so a quantile is at most 1/16 above the truth and never below; counts and
the longest are exact.  Adding costs well below a microsecond.  No lock: whoever adds holds one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

_BITS = 5  # of a duration that a bucket keeps: below 2^5 microseconds each has a bucket of its own
_LONGEST = (1 << 32) - 1  # microseconds, 71 minutes: what is longer is counted as that
_HALF = 1 << (_BITS - 1)
_BUCKETS = (32 - _BITS) * _HALF + 2 * _HALF

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Buckets = Sequence[Sequence[float]]  # (upper bound in seconds, count) pairs, rising


class Histogram:
    """Durations since the start."""

    __slots__ = ("_counts", "_longest", "_total", "count")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0.0
        self._longest = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        micro = int(seconds * 1e6)
        if micro >= 2 * _HALF:
            micro = min(micro, _LONGEST)
            shift = micro.bit_length() - _BITS
            micro = shift * _HALF + (micro >> shift)
        self._counts[micro] += 1
        self._total += seconds
        self.count += 1
        if seconds > self._longest:
            self._longest = seconds

    def as_dict(self) -> dict[str, object]:
        """`count`; `mean`, `p50`, `p90`, `p99` and `max` in seconds, None of nothing; the `buckets` in use."""
        buckets = [(_upper(index), count) for index, count in enumerate(self._counts) if count]
        if not self.count:
            return {"count": 0, "mean": None, **dict.fromkeys(SHARES), "max": None, "buckets": []}
        return {
            "count": self.count,
            "mean": self._total / self.count,
            **{name: min(quantile(buckets, share), self._longest) for name, share in SHARES.items()},
            "max": self._longest,
            "buckets": buckets,
        }


def quantile(buckets: Buckets, share: float) -> float:
    """The upper bound of the bucket that holds the given share (0 to 1) of what was counted; 0 of nothing."""
    left = share * sum(count for _, count in buckets)
    for upper, count in buckets:
        left -= count
        if left <= 1e-9:  # a share of a count is rarely exact in binary
            return upper
    return 0.0


def _upper(index: int) -> float:
    """The end of a bucket, in seconds."""
    if index < 2 * _HALF:
        return (index + 1) / 1e6
    shift = index // _HALF - 1
    return ((index % _HALF + _HALF + 1) << shift) / 1e6
