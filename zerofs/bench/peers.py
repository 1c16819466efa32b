"""The peers: read-only file systems that a distribution or the package registry offers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from zerofs.bench import host
from zerofs.bench.subjects import Served, Subject, program
from zerofs.errors import MountError

_COMPRESSIONS = ("lz4", "gzip")  # the first is the fastest to read, the last is in every kernel


def _make_squashfs(directory: Path, image: Path, compression: str) -> None:
    image.unlink(missing_ok=True)
    host.command("mksquashfs", directory, image, "-quiet", "-no-progress", "-comp", compression)


class KernelSquashfs(Subject):
    """squashfs by the kernel, its image on a loop device."""

    name = "squashfs"
    always = False

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
            _make_squashfs(self.corpus.directory, self.image, compression)
            try:
                self.mount()
            except MountError:
                if compression == _COMPRESSIONS[-1]:
                    raise
            else:
                self.unmount()
                return

    def mount(self) -> None:
        # mount(8) has the loop device go with its last user
        host.command("mount", "-t", self.name, "-o", "loop,ro", self.image, self.target)


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


class Squashfuse(Served):
    """squashfs by squashfuse, a FUSE server in C."""

    name = "squashfuse"

    @classmethod
    def missing(cls) -> str | None:
        for needed in ("squashfuse", "mksquashfs"):
            if shutil.which(needed) is None:
                return f"{needed} is not installed"
        return None

    def prepare(self) -> None:
        super().prepare()
        _make_squashfs(self.corpus.directory, self.workdir / "image", _COMPRESSIONS[0])

    def mount(self) -> None:
        self.start("squashfuse", "-f", self.workdir / "image", self.target)


class Ratarmount(Served):
    """A tar by ratarmount, a FUSE server in Python, with its index made beforehand."""

    name = "ratarmount"

    @classmethod
    def missing(cls) -> str | None:
        return None if program("ratarmount") else "not installed: pip install 'zerofs[bench]'"

    def prepare(self) -> None:
        super().prepare()
        tar = self.workdir / "tar"
        host.command("tar", "--create", "--file", tar, "--directory", self.corpus.directory, ".")
        self.mount()  # which makes the index
        self.unmount()

    def mount(self) -> None:
        command = program("ratarmount") or "ratarmount"
        index = ("--index-file", self.workdir / "index")
        self.start(command, "-f", *index, self.workdir / "tar", self.target)
