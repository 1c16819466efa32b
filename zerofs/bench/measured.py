"""One sample of a cold start, put together from what the program, the link and the mount say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from zerofs.bench.linkprocess import Passed
from zerofs.bench.subjects import program
from zerofs.bench.workloads import Ran

_PATIENCE = 60.0  # seconds


class Measured(NamedTuple):
    """One sample: seconds to the first output, and what else is known of it."""

    first: float
    details: dict[str, float]


def prefetch_counters(mountpoint: Path) -> dict[str, object]:
    """What a live mount says of its prefetch; empty where this build tells nothing."""
    command = [program("zerofs") or "zerofs", "stats", mountpoint, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    if done.returncode:
        return {}
    told = json.loads(done.stdout).get("prefetch")
    return told if isinstance(told, dict) else {}


def measure(begin: float, ran: Ran, passed: Passed, counters: Mapping[str, object]) -> Measured:
    """Moments become seconds since `begin`; what the mount does not tell is not there."""
    told = {name: float(value) for name, value in counters.items() if isinstance(value, int | float)}
    details: dict[str, float] = {
        "end": ran.end - begin,
        "bytes": float(passed.received),
        "requests": float(passed.requests),
        "late": passed.late_most,
    }
    details |= {name: told[name] for name in ("precision", "recall") if name in told}
    if "missed" in told:
        details["waits"] = told["missed"] + told.get("late", 0)
    return Measured(ran.first - begin, details)
