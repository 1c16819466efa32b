"""A small image in two real stores behind proxies, shared by the folder, and mounts of it on a small disk."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.sandbox import MountProcess, Sandbox
from zerofs.bench.soak.place import Place, Settings, make_stores
from zerofs.bench.soak.stores import Stores

TREE = 6 << 20  # bytes
CACHE = 2 << 20  # less than the tree: stores are asked to the end
MEASURED = Settings(seed=1, timeout=1.5, tree_size=TREE, cache_size=CACHE, readers=1)

Mount = Callable[..., MountProcess]


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


@pytest.fixture
def mounted(sandbox: Sandbox, stores: Stores, engine: str) -> Mount:
    """``mounted(*options, url=…)``: the image, by default from the first replica alone."""

    def mount(*options: str, url: str | None = None, **keywords: object) -> MountProcess:
        if "--local-router" not in options:
            options = ("--storage-url", url or stores.replicas[0].url, *options)
        cache = ["--cache", os.fspath(sandbox.path / "cache")]
        flist = [] if "--meta" in options else ["--meta", os.fspath(stores.flist)]
        return sandbox.mount("--ro", "--engine", engine, *cache, *flist, *options, **keywords)  # type: ignore[arg-type]

    return mount


def small_files(source: Path) -> Iterator[Path]:
    """Names of files of one chunk each, none like another, the larger ones first."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in sorted(files, key=lambda path: -path.stat().st_size):
        if 300 < path.stat().st_size < 500_000:
            yield path.relative_to(source)


def counted(sandbox: Sandbox, mount: MountProcess, room: str = "fetch") -> dict[str, int]:
    """What a mount counts in one of its rooms."""
    done = sandbox.run("zerofs", "stats", "--json", mount.target)
    found = json.loads(done.stdout)
    return dict((found[0] if isinstance(found, list) else found)[room])
