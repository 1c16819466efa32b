"""What --cache-size may say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zerofs.cache.size import DEFAULT_MOST, parse_cache_size
from zerofs.errors import UsageError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        (4096, 4096),
        ("10G", 10 * GIB),
        ("10g", 10 * GIB),
        ("10GiB", 10 * GIB),
        ("10GB", 10 * GIB),
        (" 512M ", 512 << 20),
        ("512 KiB", 512 << 10),
        ("1.5T", 3 << 39),
        ("1000B", 1000),
    ],
)
def test_sizes(text: str | int, size: int, tmp_path: Path) -> None:
    assert parse_cache_size(text, tmp_path) == size


def test_a_share_is_of_the_disk_that_will_hold_the_directory(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    whole = disk.f_blocks * disk.f_frsize
    assert parse_cache_size("100%", tmp_path / "not" / "there" / "yet") == whole
    assert parse_cache_size("12.5 %", tmp_path) == whole // 8
    assert parse_cache_size(None, tmp_path) == min(whole // 4, DEFAULT_MOST)


@pytest.mark.parametrize(
    "text", ["", "0", "0%", "-1", "101%", "10X", "G", "1e9", "10GG", "ten", "10%%", "0x10", -5, "1i", "1Ki B"]
)
def test_anything_else_is_a_usage_error(text: str | int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a cache size"):
        parse_cache_size(text, tmp_path)
