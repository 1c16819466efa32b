"""A cache of its own for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.support import SIZE
from zerofs.cache.lmdb import ChunkCache


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ChunkCache]:
    with ChunkCache(tmp_path / "cache", size_limit=SIZE) as opened:
        yield opened
