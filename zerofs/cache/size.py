"""How large the cache may get: what ``--cache-size`` and ``--cache-free`` say, in bytes."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from zerofs.errors import CacheError, UsageError
from zerofs.sizes import parse_size

DEFAULT = "25%"
DEFAULT_MOST = 64 << 30  # bytes; what the default never exceeds, however large the disk

FREE = "5%"  # of the disk stays free
FREE_MOST = 4 << 30  # bytes; what that never exceeds

_PER_CENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def parse_cache_size(value: str | int | None, directory: Path) -> int:
    """Bytes from ``10G``, ``512MiB``, ``25%`` of the disk that holds `directory`, or a number.

    Suffixes count in powers of 1024.  None is the default: a quarter of the disk, at most 64 GiB.
    Raises UsageError for anything else.
    """
    if value is None:
        return min(_share_of_disk(directory, DEFAULT.removesuffix("%")), DEFAULT_MOST)
    text = str(value).strip()
    if match := _PER_CENT.fullmatch(text):
        size = _share_of_disk(directory, match[1]) if 0 < float(match[1]) <= 100 else 0
        if size > 0:
            return size
    else:
        with contextlib.suppress(UsageError):
            return parse_size(text)
    raise UsageError(
        f"not a cache size: {value!r}", hint="say 10G, 512M or 25% (of the disk that holds the cache)"
    )


def bound_of(value: str | None, directory: Path) -> int | None:
    """What `ChunkCache` is told: nothing where the user said nothing, so that a cache keeps its bound."""
    return None if value is None else parse_cache_size(value, directory)


def parse_cache_free(value: str | int | None, directory: Path) -> int:
    """Bytes of the disk that stay free, said as for `parse_cache_size`, or 0.

    None is the default: a twentieth of the disk, at most 4 GiB.  Raises UsageError for anything else.
    """
    if value is None:
        return min(_share_of_disk(directory, FREE.removesuffix("%")), FREE_MOST)
    text = str(value).strip()
    if re.fullmatch(r"0+ *%?", text):
        return 0
    try:
        return parse_cache_size(text, directory)
    except UsageError:
        raise UsageError(
            f"not an amount of disk space: {value!r}",
            hint="say 2G, 5% (of the disk that holds the cache) or 0",
        ) from None


def _share_of_disk(directory: Path, per_cent: str) -> int:
    """That part of the disk, in bytes.  The directory itself need not exist yet."""
    existing = directory.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        disk = os.statvfs(existing)
    except OSError as error:
        raise CacheError(
            f"the disk of the cache at {directory} cannot be measured: {error.strerror}"
        ) from error
    return int(disk.f_blocks * disk.f_frsize * float(per_cent) / 100)
