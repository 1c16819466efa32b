"""A small disk of its own for the cache, which can be full."""

from __future__ import annotations

import os
from pathlib import Path

from zerofs.bench import host
from zerofs.mount.unmount import unmount


class SmallDisk:
    """`size` bytes of memory, mounted at `path`; takes root."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._filler = path / "filler"
        path.mkdir()
        host.command("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "zerofs-soak", path)

    def fill(self) -> None:
        """Leave not one block."""
        with self._filler.open("ab") as file:
            free = os.statvfs(self.path)
            os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END) + free.f_bavail * free.f_frsize)

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        while unmount(self.path):
            pass
