"""How good prefetch is, in numbers.  `docs/prefetch.md` says what each means.

Role: `plan` counts here what became of every chunk.  No threads and no locks: guarded by whoever plans.
"""

from __future__ import annotations


class Counters:
    """Counts since the mount began: chunks, where nothing else is said."""

    def __init__(self) -> None:
        self.demanded = 0
        self.hits = 0
        self.used = 0
        self.late = 0
        self.missed = 0
        self.known_misses = 0
        self.prefetched = 0
        self.prefetched_bytes = 0
        self.used_bytes = 0
        self.in_flight = 0  # asked for by prefetch and not here
        self.landed_late = 0  # of `late`, those that have arrived

    @property
    def precision(self) -> float:
        """The share of what prefetch asked for that a reader wanted; 1 where it asked for nothing."""
        asked = self.prefetched + self.in_flight
        return (self.used + self.late) / asked if asked else 1.0

    @property
    def recall(self) -> float:
        """The share of what was not in the cache that prefetch asked for first; 1 where all was."""
        lacking = self.used + self.late + self.missed
        return (self.used + self.late) / lacking if lacking else 1.0

    def as_dict(self) -> dict[str, int | float]:
        return {
            "demanded": self.demanded,
            "hits": self.hits,
            "used": self.used,
            "late": self.late,
            "missed": self.missed,
            "prefetched": self.prefetched,
            "wasted": self.prefetched - self.used - self.landed_late,
            "known_misses": self.known_misses,
            "prefetched_bytes": self.prefetched_bytes,
            "used_bytes": self.used_bytes,
            "precision": round(self.precision, 4),
            "recall": round(self.recall, 4),
        }
