"""Sizes as people write them."""

from __future__ import annotations

import re

from zerofs.errors import UsageError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes from a number with an optional suffix: ``4096``, ``512M``, ``1.5GiB``; powers of 1024.

    Raises UsageError for anything else, and for 0.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise UsageError(f"not a size: {text!r}", hint="say 512M or 10G")
    return size
