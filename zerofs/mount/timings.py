"""Where the time until a mount went.  No threads, no locks."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Timings:
    """Where the time until the mount went: seconds since the process began, by step."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, float]] = []

    def mark(self, step: str) -> None:
        self._marks.append((step, time.monotonic()))

    def report(self) -> None:
        """Write the steps to the log's place: stderr."""
        before = _process_start()
        lines = []
        for step, at in self._marks:
            lines.append(f"{step} {(at - before) * 1000:.1f}")
            before = at
        os.write(2, ("timings (ms): " + ", ".join(lines) + "\n").encode())


def _process_start() -> float:
    """When this process was started, on the clock of time.monotonic; the kernel counts in 10 ms steps."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return since_boot - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())
