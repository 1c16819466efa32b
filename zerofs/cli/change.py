"""What happened between two looks at a mount, as rates; the first look may be the beginning of the mount.

Takes the documents that a mount answers with (docs/commands.md, `zerofs stats`), by their own clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from zerofs.histogram import SHARES, quantile
from zerofs.mount.backend import user_name
from zerofs.mount.inquiry import Answer, Document


class Change:
    """From the document `before` (None: from the start of the mount) to `now`."""

    def __init__(self, before: Document | None, now: Document) -> None:
        if before is not None and _identity(before) != _identity(now):
            before = None  # another mount
        self.now = now
        self._before = before or {}
        start = before["mount"]["uptime"] if before is not None else 0.0
        self.seconds = max(now["mount"]["uptime"] - start, 1e-6)
        stores_before = self._before.get("stores", ())
        self.stores = [
            StoreChange(stores_before[n] if n < len(stores_before) else {}, store, self.seconds)
            for n, store in enumerate(now["stores"])
        ]

    def rate(self, section: str, key: str) -> float:
        """How much a counter grew a second; 0 where it is not counted."""
        before = (self._before.get(section) or {}).get(key, 0)
        return float(((self.now[section] or {}).get(key, 0) - before) / self.seconds)

    def latency(self) -> dict[str, float]:
        """Quantiles, in seconds, of the chunks that readers got; empty where there were none."""
        return _quantiles(self._before.get("fetch"), self.now["fetch"])

    def as_dict(self) -> dict[str, object]:
        """For JSON: each value is a second's, the quantiles are in seconds."""
        prefetch = self.now["prefetch"] or {}
        return {
            "reads": {key: self.rate("reads", key) for key in ("answered", "bytes", "waited", "failed")},
            "fetch": {
                **{
                    key: self.rate("fetch", key)
                    for key in ("demanded", "fetched", "fetched_bytes", "failures")
                },
                "latency": self.latency(),
            },
            "stores": {store.now["store"]: store.as_dict() for store in self.stores},
            "prefetch": {
                key: self.rate("prefetch", key) for key, value in prefetch.items() if isinstance(value, int)
            },
        }


class StoreChange:
    """The same for one store."""

    def __init__(self, before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> None:
        self._before = before
        self.now = now
        self._seconds = seconds

    def rate(self, key: str) -> float:
        return float((self.now[key] - self._before.get(key, 0)) / self._seconds)

    def latency(self) -> dict[str, float]:
        return _quantiles(self._before, self.now)

    def as_dict(self) -> dict[str, object]:
        keys = ("requests", "chunks", "bytes", "missing", "errors", "retries")
        return {**{key: self.rate(key) for key in keys}, "latency": self.latency()}


def _identity(document: Document) -> tuple[int, str]:
    """What no two mounts have in common: each number alone is used again."""
    return document["mount"]["process"], document["mount"]["device"]


class Look(NamedTuple):
    """A mount at one moment, and what it said the time before."""

    answer: Answer
    before: Document | None = None

    @property
    def change(self) -> Change | None:
        """What happened in between; None where the mount did not answer."""
        return None if self.answer.document is None else Change(self.before, self.answer.document)

    def as_dict(self) -> dict[str, object]:
        """For JSON: whose mount that is, and what it says."""
        mount, document, problem = self.answer
        return {
            "target": mount.target,
            "process": mount.process,
            "owner": user_name(mount.owner).removeprefix("user "),
            "problem": problem or None,
            "stats": document,
        }


def _quantiles(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, float]:
    """Of what two histograms differ in."""
    counted = dict(now["latency"]["buckets"])
    for upper, count in before["latency"]["buckets"] if before else ():
        counted[upper] -= count
    buckets = [(upper, count) for upper, count in counted.items() if count]
    if not buckets:
        return {}
    longest = now["latency"]["max"]
    return {
        **{name: min(quantile(buckets, share), longest) for name, share in SHARES.items()},
        "max": min(buckets[-1][0], longest),
    }
