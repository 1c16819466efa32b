"""What a soak survived: for people a table, for programs JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from zerofs.bench.soak.cache import UNSEEN, Watched
from zerofs.bench.soak.reader import Readings

START_BOUND = 0.5  # seconds from the command to a mount that serves, after a kill


@dataclass
class Outcome:
    """Counts of one soak.  Times are seconds."""

    seed: int
    engine: str
    supervised: bool
    timeout: float
    duration: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)  # by kind
    skipped: list[str] = field(default_factory=list)  # kinds that cannot be had here
    operations: int = 0
    passes: int = 0
    bytes: int = 0
    errors: dict[str, int] = field(default_factory=dict)  # of readers, by the name of the errno
    unexpected: dict[str, int] = field(default_factory=dict)  # those of them that no fault explains
    wrong: int = 0  # readings
    wrong_named: list[str] = field(default_factory=list)
    hangs: int = 0  # operations beyond the deadline
    longest: float = 0.0
    lost: int = 0  # mounts that ended by themselves, or did not start
    starts: list[float] = field(default_factory=list)  # after a kill, until the mount serves again
    swaps: int = 0  # live swaps that were done
    checks: int = 0  # comparisons of the whole tree, each with another after it had healed
    cache: Watched = UNSEEN
    proofs: int = 0  # of the cache, by `zerofs fsck`
    cache_damage: list[str] = field(default_factory=list)  # what those found
    rotten: int = 0  # entries that flipped bits had left damaged at the end, and that fsck dropped
    warnings: dict[str, int] = field(default_factory=dict)  # lines of the log of the mount, by level

    def add(self, readings: Readings, allowed: Sequence[str]) -> None:
        """Take in what a reader saw; errors that are not in `allowed` are unexpected."""
        self.operations += readings.operations
        self.passes += readings.passes
        self.bytes += readings.bytes
        self.errors = dict(Counter(self.errors) + Counter(readings.errors))
        strange = {name: count for name, count in readings.errors.items() if name not in allowed}
        self.unexpected = dict(Counter(self.unexpected) + Counter(strange))
        self.found_wrong(readings.wrong, readings.wrong_count)
        self.hangs += readings.late + readings.stuck
        self.longest = max(self.longest, readings.longest)

    def found_wrong(self, named: Sequence[str], count: int | None = None) -> None:
        self.wrong += len(named) if count is None else count
        self.wrong_named += named[: max(0, 20 - len(self.wrong_named))]

    @property
    def failed(self) -> bool:
        """Whether anything is not as it must be."""
        return bool(
            self.wrong or self.hangs or self.lost or self.unexpected or self.cache_damage or self.cache.beyond
        )

    def slow_starts(self) -> int:
        return sum(seconds > START_BOUND for seconds in self.starts)

    def as_dict(self) -> dict[str, object]:
        return {
            **asdict(self),
            "cache": self.cache._asdict(),
            "slow_starts": self.slow_starts(),
            "failed": self.failed,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; 0 where there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def print_outcome(outcome: Outcome) -> None:
    """Tables on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    table = Table(title="struck", title_justify="left", show_header=False)
    for kind, count in outcome.faults.items():
        table.add_row(kind, str(count))
    table.add_row("all", str(sum(outcome.faults.values())), style="bold")
    console.print(table)
    table = Table(title="survived", title_justify="left", show_header=False)
    for name, value in _rows(outcome).items():
        table.add_row(name, value)
    console.print(table)
    for line in [*outcome.wrong_named, *outcome.cache_damage]:
        console.print(line, markup=False)


def _rows(outcome: Outcome) -> Mapping[str, str]:
    starts, cache = outcome.starts, outcome.cache
    return {
        "seed": str(outcome.seed),
        "engine": outcome.engine + (", supervised" if outcome.supervised else ""),
        "minutes": f"{outcome.duration / 60:.1f}",
        "operations of readers": f"{outcome.operations:,}",
        "bytes compared": f"{outcome.bytes / 2**20:,.0f} MiB",
        "errors, which are no fault of ours": _counted(outcome.errors),
        "other errors": _counted(outcome.unexpected),
        "wrong bytes": str(outcome.wrong),
        "hangs beyond the deadline": f"{outcome.hangs} (timeout {outcome.timeout:g} s, "
        f"longest wait {outcome.longest:.2f} s)",
        "mounts lost": str(outcome.lost),
        "trees swapped": str(outcome.swaps),
        "whole tree compared": f"{outcome.checks} times",
        "served again after a kill": f"{len(starts)} times: median {quantile(starts, 0.5):.3f} s, "
        f"95 % {quantile(starts, 0.95):.3f} s, "
        f"longest {max(starts, default=0):.3f} s, over {START_BOUND:g} s: {outcome.slow_starts()}",
        "cache": f"at most {cache.file / 2**20:.2f} MiB of file and {cache.used / 2**20:.2f} MiB in use, of "
        f"{cache.bound / 2**20:.2f} MiB; over the bound: {cache.beyond}",
        "evicted": f"{cache.evicted:,} entries, at least",
        "fsck of the cache": f"{outcome.proofs} times: {len(outcome.cache_damage)} damaged"
        + (f", beside {outcome.rotten} that had rotted" if outcome.rotten else ""),
        "log of the mount": _counted(outcome.warnings),
        "cannot be had here": ", ".join(outcome.skipped) or "nothing",
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"
