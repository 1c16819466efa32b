"""A tree of every kind, and `zerofs pack` in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pack.trees import every_kind
from zerofs.cli import main
from zerofs.store.base import Store, open_store
from zerofs.store.url import parse_store_url

PackJson = Callable[..., dict[str, Any]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return every_kind(tmp_path / "tree")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The ``dir`` store at ``tmp_path/store``."""
    return open_store(parse_store_url(f"dir://{tmp_path}/store"))


@pytest.fixture
def pack_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> PackJson:
    """``pack_json(source, flist, *options)`` → the report; into ``tmp_path/store`` unless told."""

    def pack(source: object, flist: object, *options: str) -> dict[str, Any]:
        stores = [] if "--store" in options else ["--store", f"dir://{tmp_path}/store"]
        status = main(["pack", "--json", *stores, *options, str(source), str(flist)])
        said = capsys.readouterr()
        assert status == 0, said.err
        assert said.err == ""
        value = json.loads(said.out)
        assert isinstance(value, dict)
        return value

    return pack
