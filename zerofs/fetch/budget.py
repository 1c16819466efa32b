"""How much the background may have in flight.

Role: keeps prefetch from being felt.  A reply that was asked for cannot be recalled, so whatever is in flight
stands in line before the chunk that a reader wants next.  Bandwidth times delay is what it takes to keep the
link busy; with one chunk more (nothing smaller can be asked for, and it may be one that does not compress) that
is the bound, and a reader waits for that chunk more at the most.  `most` bounds memory whatever the link is,
`rate` the bandwidth.

Bytes here are payload bytes; before a chunk is there, they are estimated from its plain size.

No threads and no locks: `background` guards it.  The clock is given, so a test's can be.
"""

from __future__ import annotations

from collections.abc import Callable

from zerofs.fetch.link import Link

CHUNK = 512 << 10  # plain bytes of the largest chunk that writers of flists make
MOST_IN_FLIGHT = 16 << 20  # bytes


class Budget:
    """Bounds on what is in flight.  `most`: bytes.  `rate`: bytes a second on average, None: unbounded."""

    def __init__(
        self, clock: Callable[[], float], *, most: int = MOST_IN_FLIGHT, rate: float | None = None
    ) -> None:
        self.link = Link()
        self.clock = clock
        self.in_flight = 0  # bytes, estimated
        self._most = most
        self._rate = rate
        self._allowed_at = 0.0  # when the rate lets the next bytes go

    @property
    def window(self) -> int:
        """The bound on what is in flight, in bytes: bandwidth times delay, and one chunk."""
        return min(self._most, int(self.link.bandwidth * self.link.delay) + CHUNK)

    def cost(self, plain: int) -> int:
        """What chunks of `plain` bytes are likely to take on the link."""
        return max(1, round(plain * self.link.ratio)) if plain else 0

    def room(self) -> int:
        """Plain bytes that may be asked for now; 0 where the room does not suffice for a chunk."""
        if self.pause() > 0:
            return 0
        free = self.window - self.in_flight
        if free < self.cost(CHUNK) and self.in_flight:
            return 0
        return int(max(free, self.cost(CHUNK)) / self.link.ratio)

    def pause(self) -> float:
        """Seconds until the rate allows anything."""
        return max(0.0, self._allowed_at - self.clock()) if self._rate is not None else 0.0

    def take(self, cost: int) -> None:
        """`cost` bytes are asked for."""
        self.in_flight += cost
        if self._rate is not None:
            self._allowed_at = max(self._allowed_at, self.clock()) + cost / self._rate

    def give(self, cost: int) -> None:
        """They arrived, or will not come."""
        self.in_flight -= cost
