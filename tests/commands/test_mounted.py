"""A packed tree, mounted: it shows the tree that was packed, in every format."""

from __future__ import annotations

import pytest

from tests.pack.trees import every_kind, not_utf8
from tests.support.manifest import manifest
from tests.support.sandbox import Sandbox


@pytest.mark.parametrize("format", ["rocksdb", "sqlite", "fl"])
def test_pack_and_mount(sandbox: Sandbox, format: str) -> None:
    tree = every_kind(sandbox.path / "tree")
    not_utf8(tree)
    store = f"dir://{sandbox.path}/chunks"
    sandbox.run("zerofs", "pack", "--format", format, "--store", store, tree, "x.flist")
    mount = sandbox.mount("--ro", "--cache", sandbox.path / "cache", "--meta", sandbox.path / "x.flist")
    assert list(manifest(mount.target)) == list(manifest(tree))
