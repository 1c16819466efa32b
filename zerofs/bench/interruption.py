"""SIGINT and SIGTERM in a long measurement: the first one ends it, and nothing disturbs what is taken down then.

No threads, no locks: handlers of the main thread.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ignore_signals() -> None:
    """From now on nothing interrupts this process but SIGKILL."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_by_signals() -> None:
    """The first signal ends the run as an exception of the main thread; a second one does nothing."""
    for number in SIGNALS:
        signal.signal(number, _interrupted)


def _interrupted(number: int, _: object) -> NoReturn:
    ignore_signals()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
