"""Counts what a flist holds that cannot be shown, or what a format cannot hold.

Role: nothing is dropped in silence, and nothing floods the log either: each reason is logged once, with
its count, when the reader or writer is done.  Off the way of a read.  One thread, no locks.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from zerofs.flist.model import Entry

MAX_NAME = 255  # bytes; NAME_MAX of Linux
BAD_NAME = "entries with a name that no directory can hold"
DUPLICATE = "entries whose name the directory already has"


class Tally:
    """How often each reason occurred."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, reason: str, count: int = 1) -> None:
        self.counts[reason] += count

    def report(self, logger: logging.Logger, subject: str) -> None:
        """Log each reason once with its count, and forget them."""
        for reason, count in sorted(self.counts.items()):
            logger.warning("%s: %d %s", subject, count, reason)
        self.counts.clear()

    def admit(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of `entries` that a directory can show, in order; the first of equal names wins."""
        entries = list(entries)
        if _all_admissible([entry.name for entry in entries]):
            return entries
        shown: dict[bytes, Entry] = {}
        for entry in entries:
            if not is_name(entry.name):
                self.add(BAD_NAME)
            elif entry.name in shown:
                self.add(DUPLICATE)
            else:
                shown[entry.name] = entry
        return list(shown.values())


def _all_admissible(names: list[bytes]) -> bool:
    """Whether nothing is wrong with any of `names`, nor with all of them: a few looks at the lot of them."""
    distinct = set(names)
    together = b"/".join(names)
    return (
        len(distinct) == len(names)
        and together.count(b"/") == max(len(names) - 1, 0)
        and b"\0" not in together
        and max(map(len, names), default=0) <= MAX_NAME
        and distinct.isdisjoint((b"", b".", b".."))
    )


def is_name(name: bytes) -> bool:
    """Whether `name` can stand in a directory of this kernel."""
    return 0 < len(name) <= MAX_NAME and b"/" not in name and b"\0" not in name and name not in (b".", b"..")
