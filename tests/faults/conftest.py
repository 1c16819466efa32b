"""A small image in two real stores behind proxies, shared by the folder, and mounts of it on a small disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox
from zerofs.bench.soak.place import Place, Settings, make_stores
from zerofs.bench.soak.stores import Stores

TREE = 6 << 20  # bytes
CACHE = 2 << 20  # less than the tree: stores are asked to the end
MEASURED = Settings(seed=1, timeout=1.5, tree_size=TREE, cache_size=CACHE, readers=1)


@pytest.fixture(params=["fast", "llfuse"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def _stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    workdir = tmp_path_factory.mktemp("stores")
    with make_stores(workdir, random.Random(2026), TREE) as stores:
        yield stores


@pytest.fixture
def stores(_stores: Stores) -> Iterator[Stores]:
    """Two replicas that have everything; whole again after the test."""
    yield _stores
    _stores.heal()


@pytest.fixture
def place(sandbox: Sandbox, stores: Stores) -> Iterator[Callable[..., Place]]:
    """``place(engine=…, timeout=…, …)``: a mount of the image, fresh; see `Settings`."""
    with ExitStack() as stack:

        def make(**settings: object) -> Place:
            workdir = sandbox.directory(f"place-{len(list(sandbox.path.iterdir()))}")
            chosen = MEASURED._replace(**settings)  # type: ignore[arg-type]
            return stack.enter_context(Place(Path(workdir), stores, chosen))

        yield make
