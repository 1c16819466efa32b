"""The fast engine while trees are swapped and generations end, under readers and beside what lingers."""

from __future__ import annotations

import random
import struct
import threading
import time

from tests.engine.kernel import BATCH_FORGET, ENTRY, FORGET, READ, STATFS, Kernel, read_in
from tests.engine.support import FOREVER, TREE, Chunks, node
from tests.index.trees import TreeReader, file
from zerofs.flist.compile import compile_flist
from zerofs.flist.graft import graft
from zerofs.flist.index import Index

# -- a live swap -----------------------------------------------------------------------------


def test_swap(kernel: Kernel, index: Index, chunks: Chunks) -> None:
    chunks.cached = dict(chunks.all)
    old = node(index, "big")
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == old
    before = kernel.read(old, 0, 4096).body
    tree = Index.anonymous(compile_flist(TreeReader({**TREE, "big": file("other"), "fresh": file("fresh")})))
    grafted = graft(index, tree)
    after = Index.anonymous(grafted.tables)
    kernel.engine.swap(after.map, after.total_size, grafted.replaced)
    assert kernel.engine.lingering_names() == [(0, b"big")]
    held = ENTRY.unpack_from(kernel.lookup(1, b"big").body)
    assert (held[0], held[2]) == (old, 0)  # still the old node, and asked for again each time
    assert ENTRY.unpack_from(kernel.lookup(1, b"fresh").body)[0] == node(after, "fresh")
    assert kernel.read(old, 0, 4096).body == before
    kernel.send(FORGET, old, struct.pack("<Q", 1))  # of two lookups
    kernel.ask(STATFS)
    assert kernel.engine.lingering_names() == [(0, b"big")]
    kernel.send(FORGET, old, struct.pack("<Q", 1))
    kernel.ask(STATFS)
    assert kernel.engine.lingering_names() == []
    new = ENTRY.unpack_from(kernel.lookup(1, b"big").body)
    assert (new[0], new[2]) == (node(after, "big"), FOREVER) and new[0] != old


def test_names_that_the_kernel_never_knew_do_not_linger(kernel: Kernel, index: Index) -> None:
    tree = Index.anonymous(compile_flist(TreeReader({"big": file("other")})))
    grafted = graft(index, tree)
    after = Index.anonymous(grafted.tables)
    kernel.engine.swap(after.map, after.total_size, grafted.replaced)
    assert kernel.engine.lingering_names() == []
    assert ENTRY.unpack_from(kernel.lookup(1, b"bin").body)[0] == 0


def test_batch_forget(kernel: Kernel, index: Index) -> None:
    names = [name for name, _ in index.children(0)]
    for name in names:
        kernel.lookup(1, name)
    forgets = b"".join(struct.pack("<QQ", row + 1, 1) for _, row in index.children(0))
    kernel.send(BATCH_FORGET, 0, struct.pack("<II", len(names), 0) + forgets)
    kernel.ask(STATFS)
    empty = Index.anonymous(compile_flist(TreeReader({})))
    grafted = graft(index, empty)
    kernel.engine.swap(Index.anonymous(grafted.tables).map, 0, grafted.replaced)
    assert kernel.engine.lingering_names() == []


# -- many at once ----------------------------------------------------------------------------


def test_a_generation_that_ends_while_threads_look_for_chunks(index: Index, chunks: Chunks) -> None:
    """One thread is in the cache, one waits to go there, and the snapshot that both would use is to end."""
    chunks.cached = dict(chunks.all)
    inside, go_on = threading.Event(), threading.Event()
    find = chunks.find

    def slow(name: bytes, *, verify: bool = True) -> memoryview | None:
        inside.set()
        assert go_on.wait(10)
        return find(name, verify=verify)

    chunks.find = slow  # type: ignore[method-assign]
    kernel = Kernel(index.map, workers=2, cache=chunks, request=chunks.request)
    kernel.init()
    asked = {kernel.send(READ, node(index, name), read_in(0, 4096)) for name in ("big", "short")}
    assert inside.wait(10)
    renewal = threading.Thread(target=kernel.engine.renew)
    time.sleep(0.1)
    renewal.start()
    time.sleep(0.1)
    go_on.set()
    answers = [kernel.receive() for _ in asked]
    renewal.join(10)
    assert {answer.unique for answer in answers} == asked and [answer.error for answer in answers] == [0, 0]
    kernel.close()
    kernel.engine.renew()
    assert chunks.live == 0


def test_generations_and_swaps_under_readers(index: Index, chunks: Chunks) -> None:
    """Four workers read while generations end and trees are swapped: every byte is right."""
    chunks.cached = dict(chunks.all)
    kernel = Kernel(index.map, workers=4, cache=chunks, request=chunks.request)
    kernel.init()
    inode = node(index, "big")
    whole = chunks.content(inode - 1)
    stop = threading.Event()

    def disturb() -> None:
        mounted = index
        toggle = False
        while not stop.is_set():
            kernel.engine.renew()
            tree = {**TREE, "toggle": file("x")} if toggle else TREE
            toggle = not toggle
            mounted = Index.anonymous(graft(mounted, Index.anonymous(compile_flist(TreeReader(tree)))).tables)
            chunks.index = mounted
            kernel.engine.swap(mounted.map, mounted.total_size)

    thread = threading.Thread(target=disturb)
    thread.start()
    chance = random.Random(2)
    try:
        for _ in range(300):
            asked = {}
            for _ in range(8):
                offset, size = chance.randrange(len(whole)), chance.choice([1, 4096, 100_000])
                asked[kernel.send(READ, inode, read_in(offset, size))] = whole[offset : offset + size]
            for _ in range(8):
                answer = kernel.receive()
                assert answer.error == 0 and answer.body == asked.pop(answer.unique)
    finally:
        stop.set()
        thread.join()
        kernel.close()
