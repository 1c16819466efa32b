"""SIGINT and SIGTERM in a long measurement: the first one ends it, and nothing disturbs what is taken down then.

Python drops an exception that comes up while it runs a finaliser or a callback of a weak reference, and goes on; the
signal would be lost with it.  So what is dropped is raised again a moment later, by a timer.

No threads, no locks: handlers of the main thread.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.01  # seconds until what was dropped is raised anew


def ignore_signals() -> None:
    """From now on nothing interrupts this process but SIGKILL."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_by_signals() -> None:
    """The first signal ends the run as an exception of the main thread; a second one does nothing."""
    sys.unraisablehook = _dropped
    for number in SIGNALS:
        signal.signal(number, _interrupted)


def _interrupted(number: int, _: FrameType | None) -> NoReturn:
    ignore_signals()
    _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _dropped(what: sys.UnraisableHookArgs) -> None:
    """Python's hook for exceptions that nobody can catch."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        number = signal.SIGINT
    elif isinstance(what.exc_value, SystemExit):
        number = signal.SIGTERM
    else:
        sys.__unraisablehook__(what)
        return
    signal.signal(signal.SIGALRM, lambda *_: _raise(number))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)
