"""How SIGINT and SIGTERM end a command: at once, or, where something would be left behind, as an exception.

Place: `zerofs.start` calls `end_at_once` before anything of zerofs is imported; whatever has to be taken down in order
stands in `interruptible`.  A mount takes signals itself (`zerofs.mount.watch`) from before its first step.

An exception will not do everywhere: Python drops one that comes up while it runs a finaliser or a callback of a weak
reference, as imports do, and compiled modules take it for a failed import.  So while a command is imported an interrupt
just ends the process, and in `interruptible` what was dropped is raised again a moment later, by a timer.

No threads, no locks: handlers of the main thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # the exit status
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.01  # seconds until what was dropped is raised anew
_held: list[int] = []  # the signals that came in each `uninterrupted` that the main thread is in


def end_at_once(program: str) -> None:
    """From now on SIGINT ends the process where it stands, in one line, unless its caller had it ignored."""

    def end(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{program}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def ignore_signals() -> None:
    """From now on nothing interrupts this process but SIGKILL."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT or SIGTERM in here raises KeyboardInterrupt in the main thread; later ones do nothing.

    Later ones are ignored for good: what is taken down afterwards belongs to the end of the process.  A signal that is
    ignored already stays so.
    """
    before = {
        number: signal.signal(number, _interrupt)
        for number in SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, _interrupt)
    }
    hook, sys.unraisablehook = sys.unraisablehook, _dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt in here, inside of `interruptible`, is raised when this ends: for what is short and has to be whole.

    By the handler and not by a mask, since any other thread may receive the signal.  Nothing in other threads than the
    main one, which alone is interrupted.
    """
    import threading  # late: a command can be interrupted from its first imports on, so these are few

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held.append(0)
    try:
        yield
    finally:
        signals = _held.pop()
        if signals and not _held:
            raise KeyboardInterrupt
        if signals:
            _held[-1] += signals


def _interrupt(number: int, frame: FrameType | None) -> None:
    ignore_signals()
    if _held:
        _held[-1] += 1
        return
    raise KeyboardInterrupt


def _dropped(what: sys.UnraisableHookArgs) -> None:
    """Python's hook for exceptions that nobody can catch."""
    if not isinstance(what.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(what)
        return
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)
