"""Which entries go first: a clock over the order of the entries.

Place: `evictor` runs it in its transactions.  The hand is always at the oldest row.  What it comes by is let
go, or has a reason to stay and gets a new place at the end; a use since the last time is a reason once.  So
what is read all the time stays, as with an exact order of uses, and reading writes no more than a byte.

Functions only.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Standing(enum.IntEnum):
    """Why an entry may stay, the weakest reason first."""

    IDLE = 0  # none
    USED = 1  # was read since the hand last came by
    HELD = 2  # a live mount lives on it
    PINNED = 3  # the user said so


class Row(NamedTuple):
    """One place in the order."""

    sequence: int
    name: bytes
    length: int  # plain bytes


class Sweep(NamedTuple):
    """What the hand came by, in the order in which it did."""

    victims: list[Row]  # are let go
    passed: list[Row]  # go to the end


def sweep(
    rows: Iterable[Row],
    standing: Callable[[bytes], Standing],
    *,
    weigh: Callable[[Row], int],
    needed: int,
    most: int,
    yielding: Standing = Standing.IDLE,
) -> Sweep:
    """Go along `rows` until victims weigh `needed` together, or are `most`.

    What has no better standing than `yielding` goes.  Rows behind the last victim are not in the answer where there
    are enough victims: the hand has not come to them.
    """
    swept = Sweep([], [])
    weight = 0
    for row in rows:
        if weight >= needed or len(swept.victims) >= most:
            break
        if standing(row.name) <= yielding:
            swept.victims.append(row)
            weight += weigh(row)
        else:
            swept.passed.append(row)
    return swept
