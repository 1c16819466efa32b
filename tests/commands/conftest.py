"""The `zerofs` command in this process, and a packed tree to look into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.pack.trees import every_kind
from zerofs.cli import main


class Done(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Zerofs = Callable[..., Done]


@pytest.fixture
def zerofs(capfd: pytest.CaptureFixture[str]) -> Zerofs:
    """``zerofs(*arguments, status=0)``; any other exit status fails the test."""

    def run(*arguments: object, status: int = 0) -> Done:
        got = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert got == status, said.err
        if status:
            assert said.err.count("\n") == 1, said.err
            assert said.err.startswith("zerofs: ")
        return Done(got, said.out, said.err)

    return run


class Packed(NamedTuple):
    """A tree, its flist, and the directory of its chunks."""

    tree: Path
    flist: Path
    chunks: Path


def pack(zerofs: Zerofs, tree: Path, flist: Path, *options: str) -> Packed:
    """Pack `tree` with its chunks beside it."""
    chunks = flist.parent / "chunks"
    zerofs("pack", "--json", *options, "--store", f"dir://{chunks}", tree, flist)
    return Packed(tree, flist, chunks)


@pytest.fixture
def packed(tmp_path: Path, zerofs: Zerofs) -> Packed:
    return pack(zerofs, every_kind(tmp_path / "tree"), tmp_path / "x.flist")
