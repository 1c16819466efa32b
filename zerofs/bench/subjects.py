"""What is compared: a subject is one way to have a corpus in the directory tree.

This module has the plain directory, what all have in common, and the order of the columns; the rest is in
`peers` and `ours`.  A subject is prepared once, then mounted and unmounted for samples: a cold measurement starts
with nothing mounted and no server running, or pages that it had mapped would stay.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from zerofs.bench.corpus import Corpus
from zerofs.errors import MountError
from zerofs.mount import mountinfo
from zerofs.mount.unmount import unmount

READY = b"mount starts\n"  # what our own servers say then
_PATIENCE = 60.0  # seconds for a mount to appear, or for a server to end


class Subject:
    """The plain directory, and what all others have in common."""

    name: ClassVar[str] = "plain"
    serves: ClassVar[bool] = False  # whether a process of its own serves the tree
    always: ClassVar[bool] = True  # whether it takes part in every round, where time is short too
    ours: ClassVar[bool] = False  # not a peer: where it fails, the run has failed

    def __init__(self, corpus: Corpus, workdir: Path) -> None:
        self.corpus = corpus
        self.place = workdir.resolve()
        self.workdir = self.place / f"{self.name}-{corpus.name}"
        self.target = self.workdir / "mnt"

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part here; None where it can."""
        return None

    @property
    def tree(self) -> Path:
        """Where the tree is seen while it is mounted."""
        return self.target

    def prepare(self) -> None:
        """Make what will be mounted.  Called once."""
        self.target.mkdir(parents=True)

    def mount(self) -> None:
        """Mount; the tree can be used when this returns."""
        raise NotImplementedError

    def unmount(self) -> None:
        """Take down what `mount` put up; fine where nothing is up."""
        unmount(self.target)

    def fill(self) -> None:
        """Have everything fetched."""

    def forget(self) -> None:
        """Empty the cache of what was fetched."""

    def server(self) -> int:
        """The process id of whoever serves the mounted tree."""
        raise NotImplementedError(f"{self.name} has no server")


class Plain(Subject):
    """The directory itself, on the host's file system."""

    @property
    def tree(self) -> Path:
        return self.corpus.directory

    def mount(self) -> None:
        pass

    def unmount(self) -> None:
        pass


class Served(Subject):
    """A FUSE file system whose server is our child in the foreground."""

    serves = True
    always = False
    process: subprocess.Popen[bytes] | None = None

    def server(self) -> int:
        if self.process is None:
            raise MountError(f"{self.name} is not mounted", hint="")
        return self.process.pid

    def start(self, *command: str | os.PathLike[str]) -> None:
        """Start the server, and wait until it has mounted."""
        self.launch(*command)
        self._await(lambda: mountinfo.top(self.target) is not None)

    def launch(self, *command: str | os.PathLike[str], stdout: int = subprocess.DEVNULL) -> None:
        """Start the server, its messages in a log.

        In a process group of its own, so that an interrupt from the terminal reaches only us; and asked to end
        when we are killed.
        """
        with (self.workdir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                process_group=0,
            )

    def last_words(self) -> str:
        """The last line of its log."""
        lines = (self.workdir / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _await(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not ready():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                self.unmount()
                raise MountError(f"{self.name} did not mount: {self.last_words()}", hint="")
            time.sleep(0.001)

    def unmount(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        while unmount(self.target):
            pass


def program(name: str) -> Path | None:
    """A program of this environment, else of the PATH; None where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = beside if beside.exists() else shutil.which(name)
    return None if found is None else Path(found)
