"""The figures of a mount as text: the page about one mount, and the table of many.

Shared by `stats`, which shows what happened since the mount began, and `top`, which shows what
happens now: a page is made of a `Change`.  The counters are explained in docs/commands.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from zerofs.cli.change import Change, Look
from zerofs.cli.output import size, told
from zerofs.errors import MountError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # nothing that a mount says may steer the terminal

_READS = {
    "answered": "answered",
    "waited": "of these had to wait",
    "waiting": "wait now",
    "failed": "failed (EIO)",
}
_FETCH = {
    "demanded": "asked for by readers",
    "fetched": "fetched",
    "requested": "asked for ahead",
    "joined": "joined a flight",
    "from_memory": "found in memory",
    "from_cache": "found in the cache",
    "failures": "failed",
    "timeouts": "timed out",
    "verify_failures": "refused (damaged)",
    "remembered_failures": "failed again",
    "uncached": "served uncached",
}
_ALWAYS = {
    "answered",
    "waited",
    "waiting",
    "failed",
    "demanded",
    "fetched",
}  # the others where they are not 0
_PREFETCH = {
    "demanded": "first wanted by readers",
    "hits": "in the cache already",
    "used": "brought in time",
    "late": "on their way",
    "missed": "missed",
    "known_misses": "missed, though known",
    "prefetched": "brought ahead",
    "wasted": "not wanted so far",
}
_SHARES = {"precision", "recall"}


@contextmanager
def understood(target: str) -> Iterator[None]:
    """Turn what makes no sense in the document of the mount at `target` into MountError: it may be anybody's."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise MountError(
            f"what serves {told(target)} does not say what a mount counts",
            hint="it is of another version, or none of ours",
        ) from error


def page(change: Change) -> list[str]:
    """All about one mount, line by line.  Raises MountError where what it says makes no sense."""
    with understood(change.now["mount"]["target"]):
        return [_CONTROL.sub("?", line) for line in _page(change)]


def _page(change: Change) -> Iterator[str]:
    document = change.now
    yield from _head(document["mount"])
    yield ""
    yield from _counters("reads", _READS, change, "reads", size_key="bytes")
    yield ""
    yield from _counters("chunks", _FETCH, change, "fetch", size_key="fetched_bytes")
    yield from _latency(change.latency())
    yield ""
    yield from _prefetch(change)
    yield ""
    yield from _stores(change)
    yield ""
    yield from _cache(document["cache"])


def overview(looks: Iterable[Look]) -> Iterator[str]:
    """A line for each mount: its place, its process, and what happened or why nobody knows."""
    head = [
        "MOUNTPOINT",
        "PROCESS",
        "UP",
        "READS/s",
        "READ/s",
        "WAITED",
        "FETCHED/s",
        "p50",
        "p99",
        "IN TIME",
    ]
    rows: list[Sequence[str]] = [head]
    silent = []
    for look in looks:
        mount = look.answer.mount
        try:
            with understood(mount.target):
                change = look.change
                if change is None:
                    silent.append(told(look.answer.problem))
                else:
                    rows.append((told(mount.target), str(mount.process), *_summary(change)))
        except MountError as error:
            silent.append(str(error))
    if len(rows) > 1:
        yield from _table(rows, left=1)
    yield from silent


def _summary(change: Change) -> tuple[str, ...]:
    latency = change.latency()
    in_time = change.rate("prefetch", "hits") + change.rate("prefetch", "used")  # whoever brought them
    return (
        duration(change.now["mount"]["uptime"]),
        number(change.rate("reads", "answered")),
        size(change.rate("reads", "bytes")),
        percent(change.rate("reads", "waited"), change.rate("reads", "answered")),
        size(change.rate("fetch", "fetched_bytes")),
        duration(latency.get("p50")),
        duration(latency.get("p99")),
        percent(in_time, change.rate("prefetch", "demanded")),
    )


def _head(mount: Mapping[str, Any]) -> Iterator[str]:
    kind = "read-write" if mount["union"] else "read-only"
    yield (
        f"{told(mount['target'])}: process {mount['process']}, up {duration(mount['uptime'])}, "
        f"{kind}, {mount['engine']} engine"
    )
    for flist in mount["flists"]:
        yield f"  flist  {told(flist)}"
    yield f"  tree   {mount['names']:,} names, {size(mount['bytes'])} in {mount['chunks']:,} chunks"


def _counters(
    title: str, labels: Mapping[str, str], change: Change, section: str, *, size_key: str
) -> Iterator[str]:
    """Counters with their rates; the bytes last."""
    counts = change.now[section]
    rows = [(title, "total", "a second")]
    for key, label in labels.items():
        if counts[key] or key in _ALWAYS:
            rate = "" if key == "waiting" else number(change.rate(section, key))
            rows.append((f"  {label}", f"{counts[key]:,}", rate))
    rows.append(("  bytes", size(counts[size_key]), size(change.rate(section, size_key))))
    yield from _table(rows, left=1)


def _latency(latency: Mapping[str, float]) -> Iterator[str]:
    if latency:
        yield "  readers waited  " + ", ".join(f"{name} {duration(value)}" for name, value in latency.items())


def _prefetch(change: Change) -> Iterator[str]:
    """Whatever is counted: the known in their order with their meaning, others by their names."""
    counts = change.now["prefetch"]
    if counts is None:
        yield "prefetch  off"
        return
    rows = [("prefetch", "total", "a second")]
    for key in (
        *(key for key in _PREFETCH if key in counts),
        *(key for key in counts if key not in _PREFETCH),
    ):
        value = counts[key]
        label = f"  {_PREFETCH.get(key, key.replace('_', ' '))}"
        if key.endswith("_bytes"):
            rows.append((label, size(value), size(change.rate("prefetch", key))))
        elif key in _SHARES or not isinstance(value, int):
            rows.append((label, percent(value, 1), ""))
        else:
            rows.append((label, f"{value:,}", number(change.rate("prefetch", key))))
    yield from _table(rows, left=1)


def _stores(change: Change) -> Iterator[str]:
    head = (
        *("stores", "STATE", "CHUNKS", "BYTES", "BYTES/s", "REQUESTS"),
        *("MISSING", "ERRORS", "RETRIES", "DAMAGED", "p50", "p99"),
    )
    rows = [head]
    for store in change.stores:
        now = store.now
        latency = store.latency()
        rows.append(
            (
                *(
                    f"  {now['store']}",
                    now["state"],
                    f"{now['chunks']:,}",
                    size(now["bytes"]),
                    size(store.rate("bytes")),
                ),
                *(f"{now[key]:,}" for key in ("requests", "missing", "errors", "retries", "rejected")),
                *(duration(latency.get(share)) for share in ("p50", "p99")),
            )
        )
    yield from _table(rows, left=2)
    for store in change.stores:
        if store.now["written"]:
            written = size(store.now["written_bytes"])
            yield f"  {store.now['written']:,} chunks ({written}) written to {store.now['store']}"
    if dropped := change.now["write_back"]["dropped"]:
        yield f"  {dropped:,} chunks not written to a cache pool"


def _cache(cache: Mapping[str, Any]) -> Iterator[str]:
    yield f"cache  {told(cache['directory'])}"
    share = percent(cache["used"], cache["size_limit"])
    yield f"  {cache['entries']:,} chunks, {size(cache['used'])} of {size(cache['size_limit'])} ({share})"
    evicted = f", {cache['evicted']:,} evicted for them" if cache["evicted"] else ""
    yield f"  {cache['stored']:,} stored by this mount{evicted}"
    troubles = {
        "refused": "did not fit",
        "damaged": "damaged",
        "errors": "errors",
        "replaced": "files set aside",
    }
    for key, label in troubles.items():
        if cache[key]:
            yield f"  {cache[key]:,} {label}"


def number(value: float) -> str:
    """A rate for people."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}"


def percent(part: float, whole: float) -> str:
    """A share for people, a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def duration(seconds: float | None) -> str:
    """Seconds for people, from microseconds to days; a dash for None."""
    if seconds is None:
        return "-"
    for limit, unit, factor in ((1e-3, "µs", 1e6), (1.0, "ms", 1e3), (120.0, "s", 1.0)):
        if seconds < limit:
            value = seconds * factor
            return f"{value:.0f} {unit}" if value >= 100 or unit == "µs" else f"{value:.1f} {unit}"
    minutes = int(seconds) // 60
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} days"


def _table(rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Rows in columns, the first `left` of them aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
