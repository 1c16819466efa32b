"""A file through a cache that is much smaller: every byte is right, and the cache stays within its bound."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox
from zerofs.bench.soak.cache import fsck
from zerofs.bench.soak.place import Place, Settings
from zerofs.bench.soak.stores import Stores
from zerofs.bench.soak.tree import same_bytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

SIZE, CACHE = 24 << 20, 2 << 20  # bytes


def test_a_file_larger_than_the_cache(sandbox: Sandbox, engine: str) -> None:
    here = Path(sandbox.directory("here"))
    source = here / "source"
    source.mkdir()
    (source / "large").write_bytes(random.Random(5).randbytes(SIZE))
    with (
        Stores(here, source) as stores,
        Place(here, stores, Settings(seed=1, engine=engine, cache_size=CACHE)) as place,
    ):
        watch = place.watch_cache()
        for _ in range(2):
            assert same_bytes(place.mounted.target / "large", source / "large")
        seen = watch.end()
        assert not place.finish().failed
        assert fsck(place.world.cache) == []
    assert seen.bound == CACHE
    assert CACHE // 2 < seen.file <= CACHE and seen.used <= CACHE
    assert seen.evicted > SIZE // CACHE
