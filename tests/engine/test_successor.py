"""One fast engine after another on the same channel: requests that come again, and what is handed on."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading

from tests.engine.kernel import ENTRY, GETATTR, IN, INTERRUPT, LOOKUP, OPEN, READ, Kernel, read_in
from tests.engine.support import Chunks, node, wait_for
from tests.index.trees import TreeReader, file
from zerofs.flist.compile import compile_flist
from zerofs.flist.graft import graft
from zerofs.flist.index import Index

RESEND = 1 << 63  # what the kernel sets in the number of a request that it sends again


def again(kernel: Kernel, unique: int, opcode: int, inode: int, body: bytes) -> int:
    """Send a request that a predecessor took, as the kernel does after FUSE_NOTIFY_RESEND."""
    number = unique | RESEND
    kernel.socket.send(IN.pack(IN.size + len(body), opcode, number, inode, 0, 0, 77, 0, 0) + body)
    return number


def test_a_request_that_is_sent_again_is_answered_by_its_new_number(
    kernel: Kernel, chunks: Chunks, index: Index
) -> None:
    inode = node(index, "big")
    number = again(kernel, 4, LOOKUP, 1, b"big\0")
    answer = kernel.receive()
    assert (answer.unique, answer.error) == (number, 0)
    parked = again(kernel, 6, READ, inode, read_in(0, 100))
    wait_for(lambda: chunks.waiting)
    chunks.deliver()
    answer = kernel.receive()
    assert (answer.unique, answer.error, answer.body) == (parked, 0, chunks.content(inode - 1)[:100])


def test_the_same_request_twice_is_harmless(kernel: Kernel, chunks: Chunks, index: Index) -> None:
    inode = node(index, "big")
    first = again(kernel, 6, READ, inode, read_in(0, 100))
    wait_for(lambda: len(chunks.waiting) == 1)
    assert again(kernel, 6, READ, inode, read_in(0, 100)) == first
    wait_for(lambda: len(chunks.waiting) == 2)
    chunks.deliver()
    answer = kernel.receive()
    assert (answer.unique, answer.body) == (first, chunks.content(inode - 1)[:100])
    assert kernel.engine.reads()[3] == 0


def test_a_killed_reader_of_a_request_that_was_sent_again(
    kernel: Kernel, chunks: Chunks, index: Index
) -> None:
    body = read_in(0, 100)
    number = 8 | RESEND
    kernel.socket.send(IN.pack(IN.size + len(body), READ, number, node(index, "big"), 0, 0, 666, 0, 0) + body)
    wait_for(lambda: chunks.waiting)
    kernel.send(INTERRUPT, 0, struct.pack("<Q", number))
    answer = kernel.receive()
    assert (answer.unique, answer.error) == (number, errno.EINTR)


def test_halts_between_two_requests(index: Index, chunks: Chunks) -> None:
    """Threads return, what is parked is answered all the same, and they can go on."""
    kernel = Kernel(index.map, cache=chunks, request=chunks.request)
    kernel.init()
    unique = kernel.send(READ, node(index, "big"), read_in(0, 100))
    wait_for(lambda: chunks.waiting)
    kernel.engine.halt()
    kernel.send(GETATTR)  # in place of the signal: it is answered, and no further request is taken
    kernel.receive()
    wait_for(lambda: kernel.results == [-1])
    kernel.send(GETATTR)
    chunks.deliver()
    assert kernel.receive().unique == unique
    kernel.engine.go_on()
    thread = threading.Thread(target=kernel.engine.serve, args=(0,))
    thread.start()
    assert kernel.receive().error == 0  # the one that had to wait
    kernel.socket.shutdown(socket.SHUT_WR)
    thread.join(10)
    assert not thread.is_alive()
    kernel.close()


def test_goes_on_as_was_agreed_with_another(index: Index, chunks: Chunks) -> None:
    """No INIT comes to a successor."""
    first = Kernel(index.map)
    first.init()
    agreed = first.engine.negotiated
    first.close()
    assert agreed & (1 << 39)
    second = Kernel(index.map, negotiated=agreed)
    assert second.engine.resends
    assert second.engine.negotiated == agreed
    assert second.ask(OPEN, node(index, "big")).error == errno.ENOSYS
    second.close()


def test_names_go_on_lingering_unless_they_were_released() -> None:
    """A name that once led to its new node never leads to the old one again, whatever was handed over before."""
    trees = [{"a": file(text), "b": file(text)} for text in ("old", "new", "newest")]
    old, new, newest = (Index.anonymous(compile_flist(TreeReader(tree))) for tree in trees)
    first_graft = graft(old, new)
    middle = Index.anonymous(first_graft.tables)
    second_graft = graft(middle, newest)
    last = Index.anonymous(second_graft.tables)
    released = os.memfd_create("released")
    first = Kernel(old.map, released=released)
    first.init()
    first.engine.swap(middle.map, 0, first_graft.replaced)
    first.engine.lingering.release((0, b"a"), 0)
    handed_over = [*first.engine.lingering.nodes(), *second_graft.replaced]
    first.engine.swap(last.map, 0, second_graft.replaced)
    first.engine.lingering.release((0, b"b"), 0)
    first.close()
    second = Kernel(last.map, released=released, replaced=handed_over)
    assert second.engine.lingering.nodes() == [((0, b"a"), node(middle, "a") - 1)]
    assert ENTRY.unpack_from(second.lookup(1, b"a").body)[0] == node(middle, "a")
    assert ENTRY.unpack_from(second.lookup(1, b"b").body)[0] == node(last, "b")
    first = second  # goes on, while another one has prepared
    second = Kernel(last.map, released=released, replaced=first.engine.lingering.nodes())
    first.engine.lingering.release((0, b"a"), first.engine.lingering.lookups((0, b"a")))
    assert second.engine.lingering.any
    first.close()
    second.engine.lingering.take_over()
    assert not second.engine.lingering.any
    assert ENTRY.unpack_from(second.lookup(1, b"a").body)[0] == node(last, "a")
    second.close()
    os.close(released)
