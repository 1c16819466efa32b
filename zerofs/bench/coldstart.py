"""The suite `coldstart`: how soon a container of a remote image says its first word, over which link.

Between the mounts and the real Redis stands an emulated link; `coldrunner` says what a sample is.
"""

from __future__ import annotations

from typing import NamedTuple

from zerofs.bench.line import Conditions
from zerofs.bench.workloads import WORKLOADS, Workload

COLDSTART = "coldstart"


class Start(NamedTuple):
    """A row of the table: a workload on a link.  Less is better, always."""

    workload: Workload
    conditions: Conditions

    @property
    def link(self) -> str:
        """As in ``20ms-100M``: the round trip and the bits a second."""
        rate = round(self.conditions.rate * 8 / 1e6)
        return f"{self.conditions.rtt * 1000:g}ms-{f'{rate // 1000}G' if rate % 1000 == 0 else f'{rate}M'}"

    @property
    def name(self) -> str:
        return f"{self.workload.name}-{self.link}"

    @property
    def title(self) -> str:
        return self.workload.title

    @property
    def unit(self) -> str:
        return "s"

    @property
    def usual(self) -> bool:
        """Part of a run that names nothing."""
        return self.workload.usual and self.conditions == _USUAL


def _link(rtt: float, rate: float) -> Conditions:
    """Milliseconds and Mbit/s; a tenth of the delay is jitter."""
    return Conditions(rtt / 1000, rate * 1e6 / 8, jitter=rtt / 1000 / 20)


_USUAL = _link(20, 100)
_QUICK = _link(5, 1000)
STARTS = tuple(
    Start(workload, _link(rtt, rate)) for rtt in (5, 20, 80) for rate in (100, 1000) for workload in WORKLOADS
)
QUICK = tuple(Start(workload, _QUICK) for workload in WORKLOADS if not workload.guest)
