"""What a dead server left: taken down as soon as somebody knows, and not only by the next mount.

Used by `zerofs umount`, and by a supervisor that gives a mount up.  The caller's thread; no locks.
"""

from __future__ import annotations

from pathlib import Path

from zerofs.mount import mountinfo
from zerofs.mount.backend import open_backend, sweep
from zerofs.mount.mountinfo import Mount
from zerofs.mount.unmount import clear_target


def clear(target: Path, backend: Path | None) -> None:
    """Take down the dead mount at `target`, and what belongs to it at `backend` (None: a private one).

    Raises MountError or BackendError where something stays.
    """
    clear_target(mountinfo.locate(target))
    if backend is None:
        sweep()
    else:
        open_backend(backend).close()


def clear_below(mount: Mount) -> None:
    """Take down what a killed process left besides its `mount`: the layers of a union, a private backend."""
    sweep()
    for lower in mount.lower_dirs():
        layer = mountinfo.top(lower)
        if layer is not None and layer.is_ours and mountinfo.is_dead(layer):
            open_backend(Path(lower).parent).close()
