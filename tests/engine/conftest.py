"""An engine that serves the tree of `support` to a fake kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.kernel import Kernel
from tests.engine.support import TREE, Chunks
from tests.index.trees import TreeReader
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index


@pytest.fixture
def index() -> Index:
    return Index.anonymous(compile_flist(TreeReader(TREE)))


@pytest.fixture
def chunks(index: Index) -> Chunks:
    return Chunks(index)


@pytest.fixture
def kernel(index: Index, chunks: Chunks) -> Iterator[Kernel]:
    kernel = Kernel(
        index.map,
        cache=chunks,
        request=chunks.request,
        kill_pending=lambda pid: pid == 666,
        total_size=index.total_size,
    )
    kernel.init()
    yield kernel
    kernel.close()
    assert kernel.results == [0]
    kernel.engine.renew()
    assert chunks.live == 0
