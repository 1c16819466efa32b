"""How much the background may have in flight.

Role: keeps prefetch from being felt.  A reply that was asked for cannot be recalled, so whatever is in flight
stands in line before the chunk that a reader wants next.  Bandwidth times delay is what it takes to keep the way to
a store busy; with one chunk more (nothing smaller can be asked for, and it may be one that does not compress) that
is the bound for each store, and a reader waits for that chunk more at the most.  Together, `most` bounds memory
whatever the ways are, `rate` the bandwidth.

Bytes here are payload bytes; before a chunk is there, they are estimated from its plain size.

No threads and no locks: `background` guards it.  The clock is given, so a test's can be.
"""

from __future__ import annotations

from collections.abc import Callable

from zerofs.store.link import Link

CHUNK = 512 << 10  # plain bytes of the largest chunk that writers of flists make
MOST_IN_FLIGHT = 16 << 20  # bytes
BURST = 0.05  # seconds for which a rate may be used up at once; a chunk always may
_LEAST_RATIO = 1 / 16  # what compresses better, or is no chunk at all, tells nothing about the next ones
_RATIO_WEIGHT = 0.1  # of the newest answers in the share that payloads take of plain bytes


class Budget:
    """Bounds on what is in flight.  `most`: bytes.  `rate`: bytes a second on average, None: unbounded."""

    def __init__(
        self, clock: Callable[[], float], *, most: int = MOST_IN_FLIGHT, rate: float | None = None
    ) -> None:
        self.clock = clock
        self.in_flight = 0  # bytes, estimated
        self.ratio = 1.0  # payload bytes to a plain byte
        self._by_link: dict[Link, int] = {}  # the same for each way that has any
        self._most = most
        self._rate = rate
        self._allowed_at = 0.0  # when the rate lets the next bytes go

    def limit(self, rate: float) -> None:
        """Bound the rate from now on, unless a lower one does so already."""
        self._rate = rate if self._rate is None else min(rate, self._rate)

    def window(self, link: Link) -> int:
        """The bound on what is in flight there, in bytes: bandwidth times delay, and one chunk."""
        return min(self._most, int(link.bandwidth * link.delay) + CHUNK)

    def in_flight_on(self, link: Link) -> int:
        return self._by_link.get(link, 0)

    def cost(self, plain: int) -> int:
        """What chunks of `plain` bytes are likely to take on the way."""
        return max(1, round(plain * self.ratio)) if plain else 0

    def room(self, link: Link) -> int:
        """Plain bytes that may be asked for there now; 0 where the room does not suffice for a chunk."""
        if self.pause(link) > 0:
            return 0
        here = self.in_flight_on(link)
        chunk = self.cost(CHUNK)
        free, shared = self.window(link) - here, self._most - self.in_flight
        if (free < chunk and here) or (shared < chunk and self.in_flight):
            return 0
        free = min(free, shared)
        if self._rate is not None:
            free = min(free, int(self._rate * BURST))
        return int(max(free, chunk) / self.ratio)

    def pause(self, link: Link) -> float:
        """Seconds until there may be room although nothing arrives: for the rate, or since the way is to run dry."""
        now = self.clock()
        until = self._allowed_at if self._rate is not None else 0.0
        if self.in_flight_on(link):
            until = max(until, link.dry_until(now))
        return max(0.0, until - now)

    def take(self, link: Link, cost: int) -> None:
        """`cost` bytes are asked for."""
        self.in_flight += cost
        self._by_link[link] = self.in_flight_on(link) + cost
        self._spend(cost)

    def arrived(self, link: Link | None, held: int, payload: int, plain: int) -> int:
        """`payload` bytes came, `plain` when decoded; returns how many of those `held` on `link` are given back."""
        given = min(held, self.cost(plain))
        if plain:
            share = min(1.0, max(_LEAST_RATIO, payload / plain))
            self.ratio += (share - self.ratio) * _RATIO_WEIGHT
        if given and link is not None:
            self.give(link, given)
            self._spend(payload - given)
        return given

    def give(self, link: Link, cost: int) -> None:
        """They arrived, or will not come."""
        self.in_flight -= cost
        left = self.in_flight_on(link) - cost
        if left:
            self._by_link[link] = left
        else:
            self._by_link.pop(link, None)

    def _spend(self, cost: int) -> None:
        """More (or less) of the rate is used than was known."""
        if self._rate is not None:
            self._allowed_at = max(self._allowed_at, self.clock()) + cost / self._rate
