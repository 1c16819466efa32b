"""A union refreshed as a mount does it: by the process that tells the kernel what to forget."""

from __future__ import annotations

import os

from zerofs.mount.notify import Notifier
from zerofs.mount.overlay import Overlay


def refresh(union: Overlay) -> None:
    """Where there is no FUSE channel.  Raises MountError."""
    channel = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        with Notifier(channel, "", union.target, succeeded=True).at_work() as kernel:
            union.refresh(kernel)
    finally:
        os.close(channel)
