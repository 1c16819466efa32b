"""The fast engine while trees are swapped and generations end, under readers and beside what lingers."""

from __future__ import annotations

import random
import struct
import threading
import time

from tests.engine.kernel import (
    BATCH_FORGET,
    ENTRY,
    FORGET,
    READ,
    READDIRPLUS,
    STATFS,
    Kernel,
    dirents,
    read_in,
)
from tests.engine.support import FOREVER, TREE, Chunks, node
from tests.index.trees import Tree, TreeReader, file
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
    lingering = kernel.engine.lingering
    assert lingering.nodes() == [((0, b"big"), old - 1)]
    held = ENTRY.unpack_from(kernel.lookup(1, b"big").body)
    assert (held[0], held[2]) == (old, FOREVER)  # still the old node
    assert ENTRY.unpack_from(kernel.lookup(1, b"fresh").body)[0] == node(after, "fresh")
    assert kernel.read(old, 0, 4096).body == before
    lingering.release((0, b"big"), lingering.lookups((0, b"big")))
    assert lingering.nodes() == []
    new = ENTRY.unpack_from(kernel.lookup(1, b"big").body)
    assert (new[0], new[2]) == (node(after, "big"), FOREVER) and new[0] != old


def swap(kernel: Kernel, index: Index, tree: Tree) -> Index:
    """Lay `tree` over `index`, which is served; what is served then."""
    grafted = graft(index, Index.anonymous(compile_flist(TreeReader(tree))))
    after = Index.anonymous(grafted.tables)
    kernel.engine.swap(after.map, after.total_size, grafted.replaced)
    return after


def test_a_name_that_was_looked_up_meanwhile_is_not_released(kernel: Kernel, index: Index) -> None:
    """The answer may be under way to a kernel that just said that it does not know the node."""
    after = swap(kernel, index, {"big": file("other")})
    place, lingering = (0, b"big"), kernel.engine.lingering
    seen = lingering.lookups(place)
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == node(index, "big")
    assert kernel.lookup(1, b"bin").error == 0, "another one that lingers"
    lingering.release(place, seen)
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == node(index, "big")
    lingering.release(place, lingering.lookups(place))
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == node(after, "big")
    assert lingering.any


def test_a_name_that_is_gone_lingers_too(kernel: Kernel, index: Index) -> None:
    swap(kernel, index, {"big": file("other")})
    lingering = kernel.engine.lingering
    assert ENTRY.unpack_from(kernel.lookup(1, b"bin").body)[0] == node(index, "bin")
    lingering.release((0, b"bin"), lingering.lookups((0, b"bin")))
    assert ENTRY.unpack_from(kernel.lookup(1, b"bin").body)[0] == 0


def test_a_name_that_is_replaced_twice_leads_to_the_first_node_and_then_to_the_last(
    kernel: Kernel, index: Index
) -> None:
    second = swap(kernel, index, {"big": file("second")})
    third = swap(kernel, second, {"big": file("third")})
    lingering = kernel.engine.lingering
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == node(index, "big")
    lingering.release((0, b"big"), lingering.lookups((0, b"big")))
    assert ENTRY.unpack_from(kernel.lookup(1, b"big").body)[0] == node(third, "big")


def test_no_listing_leads_to_a_new_node_while_its_name_lingers(kernel: Kernel, index: Index) -> None:
    """The kernel would know two nodes of one name.  Other directories are listed as ever."""

    def told(inode: int) -> dict[bytes, int]:
        listing = kernel.ask(READDIRPLUS, inode, read_in(0, 4096)).body
        return {name: entry[0] for name, *_, entry in dirents(listing, plus=True)}

    inside = {"ls": file("ls")}
    after = swap(kernel, index, {"big": file("other"), "fresh": file("fresh"), "bin": inside})
    dots = {b".": 0, b"..": 0}
    numbers = {name.encode(): node(after, name) for name in ("big", "bin", "fresh")}
    assert told(1) == {**dots, **dict.fromkeys(numbers, 0)}
    lingering = kernel.engine.lingering
    for place, _ in lingering.nodes():
        if place[0] == 0:
            lingering.release(place, 0)
    assert told(1) == {**dots, **numbers}
    assert told(node(after, "bin")) == {**dots, b"ls": 0}
    assert {place for place, _ in lingering.nodes()} == {
        (node(index, "bin") - 1, name) for name in (b"ls", b"sh")
    }


def test_what_the_kernel_forgets_is_not_counted(kernel: Kernel, index: Index) -> None:
    """Nobody waits for an answer, and none is given, whatever is in it."""
    swap(kernel, index, {})
    nodes = kernel.engine.lingering.nodes()
    for _, row in nodes:
        kernel.send(FORGET, row + 1, struct.pack("<Q", 1))
    kernel.send(BATCH_FORGET, 0, struct.pack("<II", 0xFFFFFFFF, 0))
    kernel.send(FORGET, 10**9)
    assert kernel.ask(STATFS).error == 0
    assert kernel.engine.lingering.nodes() == nodes


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
