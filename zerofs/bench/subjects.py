"""What is compared: the plain directory, zerofs, and the read-only file systems that a distribution ships.

A subject is one of them over one corpus.  It is prepared once, then mounted and unmounted for every sample: a
cold measurement starts with nothing mounted and no server running, or pages that it had mapped would stay.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, ClassVar

from zerofs.bench import host
from zerofs.bench.corpus import Corpus
from zerofs.bench.work import read_all
from zerofs.errors import MountError
from zerofs.mount import mountinfo

_READY = b"mount starts\n"
_PATIENCE = 60.0  # seconds for a mount to appear, or to go
_COMPRESSIONS = ("lz4", "gzip")  # the first is the fastest to read, the last is in every kernel


class Subject:
    """The plain directory, and what all others have in common: `mount` returns the root of the tree."""

    name: ClassVar[str] = "plain"
    serves: ClassVar[bool] = False  # whether a process of its own serves the tree

    def __init__(self, corpus: Corpus, workdir: Path) -> None:
        self.corpus = corpus
        self.workdir = workdir.resolve() / f"{self.name}-{corpus.name}"
        self.target = self.workdir / "mnt"

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part here; None where it can."""
        return None

    def prepare(self) -> None:
        """Make what will be mounted.  Called once."""
        self.target.mkdir(parents=True)

    def mount(self) -> Path:
        return self.corpus.directory

    def unmount(self) -> None:
        """Take down what `mount` put up; fine where nothing is up."""

    def fill(self) -> None:
        """Have everything fetched."""

    def forget(self) -> None:
        """Empty the cache of what was fetched."""

    def server(self) -> int:
        """The process id of whoever serves the mounted tree."""
        raise NotImplementedError(f"{self.name} has no server")


def _wait_for_mount(target: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while mountinfo.top(target) is None:
        if process.poll() is not None:
            raise MountError(f"{process.args!r} ended with status {process.returncode}", hint="")
        if time.monotonic() > deadline:
            raise MountError(f"{process.args!r} did not mount in time", hint="")
        time.sleep(0.001)


class KernelSquashfs(Subject):
    """squashfs by the kernel, its image on a loop device."""

    name = "squashfs"

    @classmethod
    def missing(cls) -> str | None:
        if os.geteuid() != 0:
            return "a loop device takes root"
        if shutil.which("mksquashfs") is None:
            return "mksquashfs is not installed"
        return None if host.kernel_has("squashfs") else "the kernel has no squashfs"

    @property
    def image(self) -> Path:
        return self.workdir / "image"

    def prepare(self) -> None:
        super().prepare()
        for compression in _COMPRESSIONS:
            self.image.unlink(missing_ok=True)
            host.command(
                "mksquashfs",
                self.corpus.directory,
                self.image,
                "-quiet",
                "-no-progress",
                "-comp",
                compression,
            )
            try:
                self.mount()
            except MountError:
                if compression == _COMPRESSIONS[-1]:
                    raise
            else:
                self.unmount()
                return

    def mount(self) -> Path:
        host.command("mount", "-t", self.name, "-o", "loop,ro", self.image, self.target)
        return self.target

    def unmount(self) -> None:
        if mountinfo.top(self.target):
            host.command("umount", self.target)


class Erofs(KernelSquashfs):
    """erofs by the kernel, uncompressed, its image on a loop device."""

    name = "erofs"

    @classmethod
    def missing(cls) -> str | None:
        if os.geteuid() != 0:
            return "a loop device takes root"
        if shutil.which("mkfs.erofs") is None:
            return "mkfs.erofs is not installed"
        return None if host.kernel_has("erofs") else "the kernel has no erofs"

    def prepare(self) -> None:
        Subject.prepare(self)
        host.command("mkfs.erofs", "--quiet", self.image, self.corpus.directory)


class _Served(Subject):
    """A FUSE file system whose server is our child in the foreground."""

    serves = True
    process: subprocess.Popen[bytes] | None = None

    def server(self) -> int:
        if self.process is None:
            raise MountError(f"{self.name} is not mounted", hint="")
        return self.process.pid

    def unmount(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None and mountinfo.top(self.target):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if mountinfo.top(self.target):
            host.command("umount", "--lazy", self.target)


class Squashfuse(_Served):
    """squashfs by squashfuse, a FUSE server in C."""

    name = "squashfuse"

    @classmethod
    def missing(cls) -> str | None:
        for program in ("squashfuse", "mksquashfs"):
            if shutil.which(program) is None:
                return f"{program} is not installed"
        return None

    def prepare(self) -> None:
        super().prepare()
        host.command(
            *("mksquashfs", self.corpus.directory, self.workdir / "image", "-quiet", "-no-progress"),
            *("-comp", _COMPRESSIONS[0]),
        )

    def mount(self) -> Path:
        self.process = subprocess.Popen(
            ["squashfuse", "-f", self.workdir / "image", self.target],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_mount(self.target, self.process)
        return self.target


class Zerofs(_Served):
    """A flist mounted by the drop-in command, its chunks in a real redis-server."""

    name = "zerofs"
    store: ClassVar[str] = ""  # URL; set by whoever runs the server
    filled = False

    @property
    def flist(self) -> Path:
        return self.workdir / "flist"

    @property
    def cache(self) -> Path:
        return self.workdir / "cache"

    @staticmethod
    def _program(name: str) -> str:
        beside = Path(sys.executable).with_name(name)
        return str(beside) if beside.exists() else name

    def prepare(self) -> None:
        super().prepare()
        host.command(
            self._program("zerofs"), "pack", "--store", self.store, self.corpus.directory, self.flist
        )

    def fill(self) -> None:
        """Read everything once, unless that is the state already."""
        if not self.filled:
            try:
                read_all(self.mount())
            finally:
                self.unmount()
            self.filled = True

    def forget(self) -> None:
        """Cache and index: the next mount is a first one."""
        self.filled = False
        for directory in (self.cache, self.workdir / "backend"):
            shutil.rmtree(directory, ignore_errors=True)

    def _start(self, *options: str | os.PathLike[str]) -> Path:
        arguments = ["--cache", self.cache, "--meta", self.flist, "--storage-url", self.store, *options]
        with (self.workdir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program("g8ufs"), *arguments, self.target],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._await_ready(self.process.stdout)
        return self.target

    def _await_ready(self, output: IO[bytes] | None) -> None:
        if output is None or output.readline() != _READY:
            self.unmount()
            last = ((self.workdir / "log").read_text().strip().splitlines() or ["it said nothing"])[-1]
            raise MountError(f"g8ufs did not mount: {last}", hint="")

    def mount(self) -> Path:
        return self._start("--ro")

    def mount_union(self) -> Path:
        """With the read-write layer on top: the usual call of a container host."""
        return self._start("--reset", "--backend", self.workdir / "backend")


SUBJECTS: tuple[type[Subject], ...] = (Subject, Zerofs, Squashfuse, KernelSquashfs, Erofs)
