"""Showing how far long work is: a bar on a terminal, a line now and then elsewhere, nothing with ``--json``.

All take advances from any thread; what they show is changed under a lock.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zerofs.cli.output import size as human_size
from zerofs.pack.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

INTERVAL = 5.0  # seconds between lines


@contextmanager
def shown_progress(title: str, *, silent: bool, unit: str = "files") -> Iterator[Progress]:
    """Progress on standard error for as long as the context lasts."""
    if silent:
        yield Silent()
    elif sys.stderr.isatty():
        with _rich() as rich:
            yield _Bar(rich, title, unit)
    else:
        yield _Lines(title, unit)


class _Lines:
    """A line when `INTERVAL` has passed since the last one."""

    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._lock = threading.Lock()
        self._next = time.monotonic() + INTERVAL
        self._files = self._size = self._all_files = self._all_size = 0

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        with self._lock:
            self._all_files, self._all_size = files, size

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        with self._lock:
            self._files += files
            self._size += size
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + INTERVAL
                sys.stderr.write(f"zerofs: {self._title}: {self._so_far()}\n")

    def _so_far(self) -> str:
        files = f"{self._files:,}" + (f" of {self._all_files:,}" if self._all_files else "")
        size = human_size(self._size) + (f" of {human_size(self._all_size)}" if self._all_size else "")
        return f"{files} {self._unit}, {size}"


class _Bar:
    """A bar of bytes, with the count of files beside it."""

    def __init__(self, rich: RichProgress, title: str, unit: str) -> None:
        self._rich = rich
        self._task = rich.add_task(title, total=None, files=0, unit=unit)
        self._lock = threading.Lock()
        self._files = 0

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        self._rich.update(self._task, total=size or None)

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        with self._lock:
            self._files += files
            self._rich.update(self._task, advance=size, files=self._files)


def _rich() -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[files]:,} {task.fields[unit]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
