"""zerofs on both engines, and its floor: the fast engine with nothing behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from zerofs.bench import host
from zerofs.bench.subjects import READY, Served, program
from zerofs.bench.work import read_all
from zerofs.errors import MountError
from zerofs.mount.fast_engine import is_possible


def _command(name: str) -> Path:
    return program(name) or Path(name)


class _Flist(Served):
    """Served from a flist that all of this module share."""

    ours = True
    store: ClassVar[str] = ""  # URL; set by whoever runs the server

    @property
    def flist(self) -> Path:
        return self.place / f"{self.corpus.name}.flist"

    def prepare(self) -> None:
        super().prepare()
        if not self.flist.exists():
            # without a router in the flist: what a mount is told is where it goes
            to = ("--no-router", "--store", self.store)
            host.command(_command("zerofs"), "pack", *to, self.corpus.directory, self.flist)

    def start(self, *command: str | os.PathLike[str]) -> None:
        """Start the server, and wait until it says that it has mounted."""
        self.launch(*command, stdout=subprocess.PIPE)
        output = None if self.process is None else self.process.stdout
        if output is None or output.readline() != READY:
            self.unmount()
            raise MountError(f"{self.name} did not mount: {self.last_words()}", hint="")


class Zerofs(_Flist):
    """The drop-in command with the fast engine, its chunks in a real redis-server."""

    name = "zerofs"
    always = True
    engine: ClassVar[str] = "fast"
    filled = False

    @classmethod
    def missing(cls) -> str | None:
        return None if is_possible() else "the kernel is too old for the fast engine"

    @property
    def cache(self) -> Path:
        return self.workdir / "cache"

    def fill(self) -> None:
        """Read everything once, unless that is the state already."""
        if not self.filled:
            self.mount()
            try:
                read_all(self.tree)
            finally:
                self.unmount()
            self.filled = True

    def forget(self) -> None:
        """Cache and index: the next mount is a first one."""
        self.filled = False
        for directory in (self.cache, self.workdir / "backend"):
            shutil.rmtree(directory, ignore_errors=True)

    def _mount(self, *options: str | os.PathLike[str]) -> None:
        sources = ("--cache", self.cache, "--meta", self.flist, "--storage-url", self.store)
        self.start(_command("g8ufs"), "--engine", self.engine, *sources, *options, self.target)

    def mount(self) -> None:
        self._mount("--ro")

    def mount_bounded(self, cache_size: int) -> None:
        """With a cache of so many bytes."""
        self._mount("--ro", "--cache-size", str(cache_size))

    def mount_union(self) -> None:
        """With the read-write layer on top: the usual call of a container host."""
        self._mount("--reset", "--backend", self.workdir / "backend")


class ZerofsLlfuse(Zerofs):
    """The same with the engine that runs on every kernel."""

    name = "llfuse"
    always = False
    engine = "llfuse"

    @classmethod
    def missing(cls) -> str | None:
        return None


class DoNothing(_Flist):
    """The fast engine over the same tree, every byte of it zero: see `zerofs.bench.donothing`."""

    name = "do-nothing"
    always = True

    @classmethod
    def missing(cls) -> str | None:
        return Zerofs.missing()

    def mount(self) -> None:
        state = self.workdir / "flists"
        self.start(sys.executable, "-m", "zerofs.bench.donothing", state, self.flist, self.target)
