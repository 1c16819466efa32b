"""Wrong bytes in the cache and in the store that is asked first: readers get the right ones, from the next store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.conftest import Mount, counted, small_files
from tests.support.sandbox import Sandbox
from zerofs.bench.soak.stores import Stores

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")


def spoil(cache: Path, content: bytes) -> None:
    """Flip a bit of the entry that holds `content`, and of what pages that are free still hold of it."""
    data = bytearray((cache / "data.mdb").read_bytes())
    at = data.index(content)
    while at >= 0:
        data[at + 100] ^= 4
        at = data.find(content, at)
    (cache / "data.mdb").write_bytes(data)


def test_a_rotten_entry_and_a_store_that_lies(mounted: Mount, stores: Stores, sandbox: Sandbox) -> None:
    options = ("--local-router", os.fspath(stores.router), "--prefetch", "off")
    path = next(small_files(stores.source))
    content = (stores.source / path).read_bytes()
    mount = mounted(*options)
    assert (mount.target / path).read_bytes() == content
    assert mount.stop() == 0

    spoil(sandbox.path / "cache", content)
    stores.replicas[0].lie(stores.liar)
    mount = mounted(*options, allow=["do not verify"])
    for _ in range(2):
        assert (mount.target / path).read_bytes() == content
        with (mount.target / path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    told = mount.log()
    assert told.count("is damaged and will be fetched anew") == 1
    assert told.count("do not verify") == 1
    assert counted(sandbox, mount, "cache")["damaged"] == 1
    fetched = counted(sandbox, mount)
    assert (fetched["fetched"], fetched["verify_failures"], fetched["failures"]) == (1, 1, 0)
    assert mount.stop() == 0

    stores.heal()
    assert b"0 damaged" in sandbox.run("zerofs", "fsck", "--cache", sandbox.path / "cache").stdout
