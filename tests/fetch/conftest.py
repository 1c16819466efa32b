"""A store that does what a test tells it, a cache, and fetchers between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fetch.support import CACHE_SIZE, FakeRouter
from zerofs.cache.lmdb import ChunkCache
from zerofs.fetch.background import Background
from zerofs.fetch.fetcher import Fetcher


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    made = FakeRouter()
    yield made
    made.gate.set()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ChunkCache]:
    with ChunkCache(tmp_path / "cache", size_limit=CACHE_SIZE) as opened:
        yield opened


@pytest.fixture
def make(router: FakeRouter) -> Iterator[Callable[..., Fetcher]]:
    """Makes fetchers on `router` and closes them."""
    made: list[Fetcher] = []

    def new(cache: ChunkCache | None = None, **options: object) -> Fetcher:
        options.setdefault("background", Background())
        made.append(Fetcher(router, cache, **options))  # type: ignore[arg-type]
        return made[-1]

    yield new
    router.gate.set()
    for fetcher in made:
        fetcher.close()
