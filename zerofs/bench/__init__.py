"""Measuring a mount against the plain directory and against the peers that a distribution ships.

Role: ``python -m zerofs.bench`` and ``zerofs bench``.  Every file system is mounted from the same trees and
does the same work in one run, one after the other and round after round, so that what disturbs the machine
disturbs all of them.  Nothing of zerofs imports this package but its command line.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark with the arguments `argv` (the process's own by default); returns the exit status."""
    from zerofs.bench.command import run

    return run(argv)
