"""Buffers for payloads on their way in, used again while chunks stream.

The allocator gives the pages of a large buffer back at once, and having them anew for each chunk costs more
than receiving it.  Place: below `connection`; one per store, for all its connections.

Thread-safe without a lock: a deque's ends are atomic.
"""

from __future__ import annotations

import contextlib
from collections import deque

MOST = 8  # buffers
LEAST_BYTES = 64 * 1024  # smaller ones come out of pages that the process has
MOST_BYTES = 1024 * 1024  # larger chunks are rare


class Spares:
    """A few buffers that nobody uses at the moment."""

    def __init__(self) -> None:
        self._buffers: deque[bytearray] = deque(maxlen=MOST)

    def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes that mean nothing."""
        if LEAST_BYTES <= size <= MOST_BYTES:
            # None is left; or somebody still looks into this one, so that it keeps its size.
            with contextlib.suppress(IndexError, BufferError):
                return _resized(self._buffers.pop(), size)
        return bytearray(size)

    def give(self, buffer: object) -> None:
        """Take a payload back that nobody will look at any more; only buffers are kept."""
        if isinstance(buffer, bytearray) and LEAST_BYTES <= len(buffer) <= MOST_BYTES:
            self._buffers.append(buffer)

    def clear(self) -> None:
        self._buffers.clear()


def _resized(buffer: bytearray, size: int) -> bytearray:
    del buffer[size:]
    if len(buffer) < size:
        buffer += bytes(size - len(buffer))
    return buffer
