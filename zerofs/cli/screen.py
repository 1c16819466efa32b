"""A terminal for a live view: pages that replace each other, keys as they are pressed, and all as it was in the end.

Plain control sequences, which every terminal of today obeys: no terminfo need be there, as in a container.  The page
lies on the alternate screen, so what stood in the terminal comes back, whatever ends the view: a key, an error, a
signal; and when it is stopped (Ctrl-Z) until it goes on.  Main thread only: it handles signals.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterable
from types import FrameType
from typing import Any, Self

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"  # the alternate screen, no cursor, empty
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_PAGE = "\x1b[H", "\x1b[K", "\x1b[J"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Screen:
    """A context.  The terminal is that of standard output; keys come from standard input, if that is one."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._modes: list[Any] | None = None  # of the keyboard, before

    def __enter__(self) -> Self:
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _interrupt) for number in _ENDING}
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: None)  # it wakes `wait`
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # once interrupted, undisturbed
        self._give_back()
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        os.close(self._wake)
        os.close(self._woken)

    def show(self, lines: Iterable[str]) -> None:
        """Replace what is seen; what does not fit is cut."""
        columns, rows = shutil.get_terminal_size()
        seen = [line[: columns - 1] + _END_OF_LINE for line in lines][: rows - 1]
        self._write(_HOME + "\n".join(seen) + "\n" + _END_OF_PAGE)

    def wait(self, seconds: float) -> str:
        """The key that was pressed; empty when the time is over, or the page has to be drawn again."""
        end = time.monotonic() + seconds
        sources = [self._wake] if self._keys is None else [self._wake, self._keys]
        ready = select.select(sources, [], [], max(0.0, end - time.monotonic()))[0]
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 256)
        if self._keys in ready:
            pressed = os.read(self._keys, 16).decode(errors="replace")
            if not pressed:
                self._keys = None  # the other end has hung up
            return pressed
        return ""

    def _take(self) -> None:
        if self._keys is not None:
            self._modes = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            self._write(_LEAVE)
        if self._keys is not None and self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._modes)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Stop as any program does, and come back to the page afterwards."""
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, self._stop)
        self._take()

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
