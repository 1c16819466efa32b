"""Showing how far long work is: a bar on a terminal, a line now and then elsewhere, nothing with ``--json``.

Both take advances from any thread; the lines are written under a lock.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from zerofs.cli.output import size as human_size
from zerofs.pack.progress import Progress, Silent

INTERVAL = 5.0  # seconds between lines


@contextmanager
def shown_progress(title: str, *, silent: bool) -> Iterator[Progress]:
    """Progress on standard error for as long as the context lasts."""
    if silent:
        yield Silent()
    elif sys.stderr.isatty():
        with _bar(title) as bar:
            yield bar
    else:
        yield _Lines(title)


class _Lines:
    """A line when `INTERVAL` has passed since the last one."""

    def __init__(self, title: str) -> None:
        self._title = title
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
        files = f"{self._files:,} of {self._all_files:,}" if self._all_files else f"{self._files:,}"
        done = human_size(self._size)
        return (
            f"{files} files, {done} of {human_size(self._all_size)}"
            if self._all_size
            else f"{files} files, {done}"
        )


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Rich

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[files]:,} files"),
        TimeRemainingColumn(),
    )
    with Rich(*columns, console=Console(stderr=True), transient=True) as rich:
        task = rich.add_task(title, total=None, files=0)

        class Bar:
            files = 0
            lock = threading.Lock()

            def expect(self, *, files: int = 0, size: int = 0) -> None:
                rich.update(task, total=size or None)

            def advance(self, *, files: int = 0, size: int = 0) -> None:
                with self.lock:
                    self.files += files
                rich.update(task, advance=size, files=self.files)

        yield Bar()
