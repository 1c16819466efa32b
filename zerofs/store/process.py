"""State that must not cross a fork: a child process gets its own, with fresh locks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Holds one `T` per process, made anew after a fork.

    A socket used by two processes mixes their answers, and a lock held by another thread at the fork
    stays locked for ever in the child; so both live in the `T` and are left behind.  The first call
    after a fork comes from the one thread that survives it, so there is nothing to lock here.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held = (os.getpid(), make())

    def get(self) -> T:
        """The value of the calling process."""
        pid, value = self._held
        if pid != os.getpid():
            value = self._make()
            self._held = (os.getpid(), value)
        return value
