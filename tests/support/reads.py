"""Reads whose outcome is an error."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest


def fails(path: Path) -> float:
    """Reading must end in EIO; returns after how many seconds."""
    started = time.monotonic()
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EIO
    return time.monotonic() - started
