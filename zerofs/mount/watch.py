"""Waits for whatever ends or changes a mount: signals, and an unmount from outside; or asks after it.

Role: the main thread's loop while engine threads serve.  Signals arrive through a wake-up descriptor, the unmount
through inotify, and the end of a helper process through a pid descriptor, all in one poll, beside whoever asks the
mount how it fares (see `control`); nothing here wakes up without a cause.  The watch holds no reference to the mount:
unmounting it is never busy because of us.  No locks.

It is there from before the first step of a mount until after the last of its end, so that no signal falls
between two steps and leaves what the one made and the other would have noted.  What comes early waits;
only a step of unbounded length lets itself be interrupted (`Watch.interruptible`).
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from zerofs.mount._linux import IN_UNMOUNT, inotify_add_watch, inotify_init, inotify_read


class Event(enum.Enum):
    """What happened."""

    UNMOUNTED = "unmounted from outside"  # the last mount of the file system is gone, in every namespace
    TERM = "SIGTERM"
    INT = "SIGINT"
    HUP = "SIGHUP"
    HELPER_ENDED = "the helper process ended"
    SESSION_ENDED = "the FUSE session ended"
    ORPHANED = "the supervisor is gone"
    RETIRE = "a successor is to take over"


_SIGNALS = {signal.SIGTERM: Event.TERM, signal.SIGINT: Event.INT, signal.SIGHUP: Event.HUP}


_ENDING = (signal.SIGTERM, signal.SIGINT)
_NUDGE = 0.25  # seconds until a step that did not hear of its signal hears of it


class Interrupted(BaseException):
    """SIGTERM or SIGINT came in an interruptible step.  No error: nothing handles it but the mount's end."""


class Watch:
    """A context: signals are taken from its beginning to its end.  Make and leave it in the main thread.

    `afterwards` handles the signals from then on; None: who did before.  `unmounts`: that of the process which this one
    takes over from, whose mount is watched already.
    """

    def __init__(self, *, afterwards: signal.Handlers | None = None, unmounts: int | None = None) -> None:
        self._afterwards = afterwards
        self._interruptible = False
        self._ended = False
        self._poll = select.poll()
        self._inotify = inotify_init() if unmounts is None else unmounts
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._helpers: set[int] = set()  # ours to close
        self._ends: dict[int, Event] = {}
        self._services: dict[int, Callable[[], Event | None]] = {}
        for fd in (self._inotify, self._wake):
            self._poll.register(fd, select.POLLIN)

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._note) for number in (*_SIGNALS, signal.SIGALRM)}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # a supervisor has them wait for this
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            before = self._afterwards is None or number not in _SIGNALS
            signal.signal(number, handler if before else self._afterwards)
        signal.set_wakeup_fd(self._wakeup_before)
        for fd in (self._inotify, self._wake, self._woken, *self._helpers):
            os.close(fd)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Python writes to the wake-up descriptor only for signals that have a handler: this one."""
        if number in _ENDING:
            self._ended = True
        if self._ended and self._interruptible:
            self._interruptible = False  # once: what it unwinds is not to be interrupted again
            raise Interrupted

    def _dropped(self, what: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a finaliser: the next nudge raises it again."""
        if isinstance(what.exc_value, Interrupted):
            self._interruptible = True
        else:
            sys.__unraisablehook__(what)

    def check(self) -> None:
        """Raise Interrupted where SIGTERM or SIGINT has come."""
        if self._ended:
            raise Interrupted

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """SIGTERM and SIGINT, also those that came before, raise Interrupted in here, at any instruction.

        A signal that another thread received, or that came just before a system call, does not end that call. So
        a timer interrupts it now and then, whereupon Python looks for signals.
        """
        self._interruptible = True
        hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        timer = signal.setitimer(signal.ITIMER_REAL, _NUDGE, _NUDGE)
        try:
            self.check()
            yield
        finally:
            self._interruptible = False
            signal.setitimer(signal.ITIMER_REAL, *timer)
            sys.unraisablehook = hook

    @property
    def unmounts(self) -> int:
        """The descriptor that tells of the unmount, also to a process that takes over."""
        return self._inotify

    def add_mount(self, target: Path) -> None:
        """Watch the file system that is seen at `target`, mounted by now.

        Asks that file system for its root: where this process serves it, its threads must be running.
        """
        inotify_add_watch(self._inotify, target, IN_UNMOUNT)

    def add_helper(self, process: int) -> None:
        """Watch for the end of a process without which the mount is dead."""
        fd = os.pidfd_open(process)
        self._helpers.add(fd)
        self._add_end(fd, Event.HELPER_ENDED)

    def add_session(self, fd: int) -> None:
        """Watch a descriptor (the caller's) that becomes readable when a session has ended."""
        self._add_end(fd, Event.SESSION_ENDED)

    def add_service(self, fd: int, serve: Callable[[], Event | None]) -> None:
        """Call `serve` in the waiting thread whenever `fd` (the caller's) is readable.

        It must not wait for anything, and ends a wait only by what it returns.
        """
        self._services[fd] = serve
        self._poll.register(fd, select.POLLIN)

    def remove_service(self, fd: int) -> None:
        """Undo `add_service`; call it before `fd` is closed."""
        del self._services[fd]
        self._poll.unregister(fd)

    def _add_end(self, fd: int, event: Event) -> None:
        self._ends[fd] = event
        self._poll.register(fd, select.POLLIN)

    def events(self) -> Iterator[Event]:
        """What happens, as it happens; waits in between, and never ends by itself."""
        while True:
            yield from self.wait()

    def wait(self, seconds: float | None = None) -> list[Event]:
        """What happened, as soon as something did; nothing after `seconds`."""
        end = None if seconds is None else time.monotonic() + seconds
        happened: list[Event] = []
        left: float | None = seconds
        while not happened and (left is None or left >= 0):
            ready = self._poll.poll(None if left is None else left * 1000)
            for fd, _ in ready:
                happened += self._happened(fd)
            if end is not None:
                left = end - time.monotonic() if ready else -1
        return happened

    def _happened(self, fd: int) -> Iterator[Event]:
        if fd == self._wake:
            yield from self._signals()
        elif fd == self._inotify:
            yield from self._unmounts()
        elif fd in self._services:
            if (event := self._services[fd]()) is not None:
                yield event
        else:
            self._poll.unregister(fd)
            yield self._ends.pop(fd)

    def _signals(self) -> Iterator[Event]:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._wake, 256):
                if number in _SIGNALS:
                    yield _SIGNALS[signal.Signals(number)]

    def _unmounts(self) -> Iterator[Event]:
        with contextlib.suppress(BlockingIOError):
            for _, mask in inotify_read(self._inotify):
                if mask & IN_UNMOUNT:
                    yield Event.UNMOUNTED
