"""Prefetch of one mount, without the mount: a fetcher that fetches nothing, and an index that is swapped."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from tests.index.trees import TreeReader, file
from tests.prefetch.test_completion import sized
from zerofs.cache.lmdb import ChunkCache
from zerofs.flist.compile import compile_flist
from zerofs.flist.graft import graft
from zerofs.flist.index import Index
from zerofs.prefetch.prefetcher import Prefetcher
from zerofs.prefetch.profile import Entry, Profile, write_profile


class Idle:
    """A fetcher that is fed and does nothing."""

    def __init__(self) -> None:
        self.woken = threading.Event()

    def feed(self, feeder: object) -> None: ...

    def wake_background(self) -> None:
        self.woken.set()


def tree(*names: str) -> Index:
    return Index.anonymous(
        compile_flist(TreeReader({name: sized(name, 10) for name in names} | {"e": file("")}))
    )


def test_a_tree_that_is_swapped_in_before_the_replay_leaves_the_profile_to_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a takeover: the successor serves the swapped tree at once, and its thread begins later."""
    first, fetcher = tree("one", "two"), Idle()
    path = tmp_path / "profile"
    write_profile(Profile(first.content_hash, 1, (Entry(1, 5, 1),)), path)
    with ChunkCache(tmp_path / "ca", size_limit=1 << 20) as cache:
        prefetcher = Prefetcher(first, cache, fetcher, mode="profile", profile=path)  # type: ignore[arg-type]
        prefetcher.swap(Index.anonymous(graft(first, tree("three")).tables))
        with caplog.at_level(logging.INFO):
            prefetcher.start()
            assert fetcher.woken.wait(20), caplog.text
            ((chunk, _),) = prefetcher.take(1 << 20)
            prefetcher.close()
    assert chunk == first.chunk(1)
    assert "ignored" not in caplog.text
