"""Waits for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 40.0  # a machine under load takes long; what does not come takes as long to fail


def eventually(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Return once `condition` holds; an assertion fails where it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)
