"""Ranges of chunk ids, as router files and ``--store`` name them.

A range is two hex prefixes of equal length, inclusive, or one that stands for both.  An id lies in it if its
digits, as many as the prefixes have, are neither below the first nor above the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_PREFIX = re.compile(r"[0-9A-Fa-f]{1,128}\Z")


class IdRange(NamedTuple):
    """An inclusive range.  `first` and `last` are lower-case hex digits of equal length."""

    first: str
    last: str

    def matches(self, digits: str) -> bool:
        """Whether the id with these lower-case `digits` (see `ids.id_digits`) lies in the range."""
        return self.first <= digits[: len(self.first)] <= self.last and len(digits) >= len(self.first)

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


EVERYTHING = IdRange("0", "f")


def parse_range(text: str, separator: str = ":") -> IdRange:
    """Read ``00:7F`` or ``12``.  Raises ValueError with what is wrong, without the text itself."""
    first, given, last = text.partition(separator)
    if not given:
        last = first
    if not _PREFIX.match(first) or not _PREFIX.match(last):
        raise ValueError("a range is one hex prefix, or two with a colon between")
    if len(first) != len(last):
        raise ValueError("the two prefixes of a range have the same number of digits")
    if first.lower() > last.lower():
        raise ValueError("a range begins with the lower prefix")
    return IdRange(first.lower(), last.lower())


def uncovered(ranges: Sequence[IdRange]) -> IdRange | None:
    """The lowest range of hex ids that none of `ranges` holds, or None where they hold all."""
    width = max((len(each.first) for each in ranges), default=1)
    free = 0
    for first, last in sorted(_as_numbers(ranges, width)):
        if first > free:
            return IdRange(f"{free:0{width}x}", f"{first - 1:0{width}x}")
        free = max(free, last + 1)
    if free == 16**width:
        return None
    return IdRange(f"{free:0{width}x}", "f" * width)


def _as_numbers(ranges: Iterable[IdRange], width: int) -> Iterable[tuple[int, int]]:
    for first, last in ranges:
        yield int(first.ljust(width, "0"), 16), int(last.ljust(width, "f"), 16)
