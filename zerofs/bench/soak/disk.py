"""A small disk of its own for the cache, which can be full."""

from __future__ import annotations

import errno
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

    def fill(self, leave: int = 0) -> None:
        """Leave `leave` bytes (whole blocks; none: not one block), though others write meanwhile."""
        with self._filler.open("ab") as file:
            while (free := self._free() - leave) > 0:
                try:
                    os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END) + free)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def _free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        while unmount(self.path):
            pass
