"""Trees packed by `zerofs pack` into a dir store, for tests that mount them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.sandbox import MountProcess, Sandbox

Fill = Callable[[Path], object]


class Image:
    """A packed tree: its flist, the store of its chunks, and the directory that it was made of.

    `options`: what mounting it takes.
    """

    def __init__(self, sandbox: Sandbox, name: str, fill: Fill, form: str = "rocksdb") -> None:
        self.source = sandbox.directory(f"source-{name}")
        fill(self.source)
        self.store = sandbox.path / "store"
        self.flist = sandbox.path / f"{name}.flist"
        self.options: list[str | os.PathLike[str]] = [
            *("--meta", self.flist, "--storage-url", f"dir://{self.store}"),
            *("--cache", sandbox.path / "cache"),
        ]
        sandbox.run(
            "zerofs",
            "pack",
            "--no-router",
            "--format",
            form,
            "--store",
            f"dir://{self.store}",
            self.source,
            self.flist,
        )

    def chunks(self) -> list[Path]:
        """The files of the store."""
        return sorted(path for path in self.store.rglob("*") if path.is_file())


@pytest.fixture
def pack(sandbox: Sandbox) -> Callable[..., Image]:
    """``pack(name, fill)``: `fill` is called with the directory to fill."""
    return lambda name, fill, form="rocksdb": Image(sandbox, name, fill, form)


@pytest.fixture(params=["fast", "llfuse"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn: what passes on one passes on the other."""
    return str(request.param)


@pytest.fixture
def mounted(sandbox: Sandbox, engine: str) -> Callable[..., MountProcess]:
    """``mounted(image, *options)``: mounts read-only unless a ``--backend`` is among the options."""

    def mount(image: Image, *options: str | os.PathLike[str], **keywords: object) -> MountProcess:
        chosen = ["--engine", engine, *map(os.fspath, options)]
        if "--backend" not in chosen and "--ro" not in chosen:
            chosen.append("--ro")
        if "--storage-url" not in chosen:
            chosen += ["--storage-url", f"dir://{image.store}"]
        if "--cache" not in chosen:
            chosen += ["--cache", os.fspath(sandbox.path / "cache")]
        return sandbox.mount("--meta", image.flist, *chosen, **keywords)  # type: ignore[arg-type]

    return mount


def holding(content: Mapping[str, bytes]) -> Fill:
    """For `pack`: files by their names."""
    return lambda root: [write(root / name, plain) for name, plain in content.items()]


def write(path: Path, content: bytes | str = b"") -> Path:
    """Write a file, its directories made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
