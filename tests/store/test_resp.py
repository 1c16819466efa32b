"""The RESP parser against hiredis, whole, cut to pieces and with what must be refused."""

from __future__ import annotations

from collections.abc import Iterator

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreProtocolError,
    StoreReadOnlyError,
    StoreUnreachableError,
)
from zerofs.store._resp import Answers, encode
from zerofs.store.base import MAX_PAYLOAD
from zerofs.store.resp import BULK, ERROR, INTEGER, MAX_LINE, STATUS, Answer, answer_error
from zerofs.store.spares import Spares

text = st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=30).map(str.encode)
long = st.integers(4_000, 150_000).map(lambda size: bytes(size // 2) + b"\r\n$1" * (size // 8))
answers = st.one_of(
    st.builds(Answer, st.just(STATUS), text),
    st.builds(Answer, st.just(ERROR), text),
    st.builds(Answer, st.just(INTEGER), st.integers(-(2**63), 2**63 - 1)),
    st.builds(Answer, st.just(BULK), st.one_of(st.none(), st.binary(max_size=200), long)),
)


def wire(answer: Answer) -> bytes:
    if answer.kind == BULK:
        value = answer.value
        return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)  # type: ignore[arg-type,str-bytes-safe]
    value = b"%d" % answer.value if answer.kind == INTEGER else answer.value  # type: ignore[str-bytes-safe]
    return bytes([answer.kind]) + value + b"\r\n"  # type: ignore[operator]


def give(parser: Answers, data: bytes) -> Iterator[Answer]:
    """What the parser takes out of `data`, received as it likes to."""
    while data:
        room = parser.room()
        size = min(len(room), len(data))
        room[:size] = data[:size]
        del room
        parser.received(size)
        data = data[size:]
        while answers := parser.take():
            yield from answers


def feed(data: bytes, cuts: list[int], expected: int) -> list[Answer]:
    parser = Answers("redis://x")
    parser.expected = expected
    taken = []
    position = 0
    for cut in [*sorted(cuts), len(data)]:
        if cut > position:
            taken += give(parser, data[position:cut])
            position = cut
    assert parser.pending == (len(taken) < expected)
    return taken


@given(st.lists(answers, max_size=12), st.data())
def test_answers_survive_any_cut(sent: list[Answer], data: st.DataObject) -> None:
    raw = b"".join(map(wire, sent))
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=20))
    assert feed(raw, cuts, len(sent)) == sent


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_garbage_is_refused_or_understood_but_nothing_else(raw: bytes, cuts: list[int]) -> None:
    try:
        feed(raw, [cut for cut in cuts if cut <= len(raw)], 100)
    except StoreProtocolError:
        return


@pytest.mark.parametrize(
    "raw",
    [
        b"*1\r\n$1\r\na\r\n",
        b"*2000000000\r\n",
        b"%1\r\n",
        b"_\r\n",
        b",1.5\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"\0",
        b"$%d\r\n" % (MAX_PAYLOAD + 1),
        b"$99999999999999999999999999\r\n",
        b"$-2\r\n",
        b"$1x\r\n",
        b"$\r\n",
        b"$+5\r\n",
        b"$5\nhello\r\n",
        b"$1\r\nabc",
        b":\r\n",
        b":1.5\r\n",
        b"+" + b"x" * (MAX_LINE + 1),
        b"$" + b"1" * (MAX_LINE + 1),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_must_be_refused(raw: bytes, step: int) -> None:
    with pytest.raises(StoreProtocolError):
        feed(raw, list(range(0, len(raw), step)), 5)


def test_an_answer_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(StoreProtocolError, match="no question"):
        feed(b"+OK\r\n+OK\r\n", [], 1)


def test_a_huge_length_is_refused_before_any_of_it_comes() -> None:
    parser = Answers("redis://x")
    parser.expected = 1
    with pytest.raises(StoreProtocolError, match="more than any chunk"):
        next(give(parser, b"$536870912\r\n"))


def test_a_long_payload_gets_its_memory_as_it_arrives() -> None:
    parser = Answers("redis://x")
    parser.expected = 1
    size = 5_000_001
    assert list(give(parser, b"$%d\r\n" % size)) == []
    payload = bytes(range(256)) * (size // 256 + 1)
    for position in range(0, size, 100_000):
        piece = payload[position : min(position + 100_000, size)]
        assert list(give(parser, piece)) == []
        assert len(parser.room()) < max(1 << 20, 2 * position) + (1 << 20)
    assert list(give(parser, b"\r\n")) == [Answer(BULK, payload[:size])]
    assert not parser.pending


@given(st.lists(st.binary(max_size=6000), min_size=1, max_size=5))
def test_commands_are_what_hiredis_packs(arguments: list[bytes]) -> None:
    packed: bytes = hiredis.pack_command(tuple(arguments))  # type: ignore[arg-type]  # its stub wants one word
    pieces, added, ended = encode(iter([arguments] * 3), 2, 1 << 20)
    assert (b"".join(pieces), added, ended) == (2 * packed, 2, False)
    pieces, added, ended = encode(iter([bytearray(each) for each in arguments] for _ in "12"), 9, 1 << 20)
    assert (b"".join(pieces), added, ended) == (2 * packed, 2, True)


def test_no_more_commands_are_taken_than_bytes_may_wait_and_long_arguments_are_not_copied() -> None:
    long = bytes(5000)
    commands = iter([(b"SET", b"k", long)] * 3)
    pieces, added, ended = encode(commands, 64, 6000)
    assert (added, ended) == (2, False) and sum(piece is long for piece in pieces) == 2
    # One in any case: whoever has asked for nothing waits for nothing.
    assert encode(commands, 64, 0)[1:] == (1, False)
    assert encode(commands, 64, 1) == ([], 0, True)


def test_what_came_before_a_fault_is_handed_out_and_the_fault_stays() -> None:
    parser = Answers("redis://x")
    parser.expected = 5
    raw = b"$3\r\nabc\r\n:7\r\n$bad\r\n+OK\r\n"
    parser.room()[: len(raw)] = raw
    parser.received(len(raw))
    assert parser.take() == [Answer(BULK, b"abc"), Answer(INTEGER, 7)]
    for _ in range(2):
        with pytest.raises(StoreProtocolError, match="malformed number"):
            parser.take()
    assert parser.pending


def test_more_than_there_was_room_for_is_not_believed() -> None:
    parser = Answers("redis://x")
    with pytest.raises(ValueError, match="no room"):
        parser.received(len(parser.room()) + 1)
    parser.expected = 1
    next(give(parser, b"$100000\r\n"), None)
    with pytest.raises(ValueError, match="no room"):
        parser.received(len(parser.room()) + 1)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"NOAUTH Authentication required.", StoreAuthError),
        (b"WRONGPASS invalid username-password pair", StoreAuthError),
        (b"NOPERM this user has no permissions", StoreAuthError),
        (b"ERR invalid password", StoreAuthError),
        (b"ERR AUTH <password> called without any password configured", StoreAuthError),
        (b"ERR Client sent AUTH, but no password is set", StoreAuthError),
        (b"Access denied", StoreAuthError),
        (b"Authentication disabled", StoreAuthError),
        (b"LOADING Redis is loading the dataset in memory", StoreUnreachableError),
        (b"BUSY Redis is busy running a script", StoreUnreachableError),
        (b"CLUSTERDOWN The cluster is down", StoreUnreachableError),
        (b"READONLY You can't write against a read only replica.", StoreReadOnlyError),
        (b"Namespace is in read-only mode", StoreReadOnlyError),
        (b"MOVED 3999 127.0.0.1:6381", StoreError),
        (b"WRONGTYPE Operation against a key", StoreError),
        (b"ERR unknown command", StoreError),
    ],
)
def test_error_lines_become_the_errors_that_fit(line: bytes, kind: type[StoreError]) -> None:
    error = answer_error("redis://a:1", line)
    assert type(error) is kind
    assert str(error).startswith("redis://a:1: ")


def test_an_echoed_password_is_cut_out() -> None:
    error = answer_error(
        "redis://a:1", b"ERR unknown command 'AUTH', args: 'hunter2'\x1b[0m \xff", (b"hunter2",)
    )
    assert "hunter2" not in str(error)
    assert str(error).isprintable()


def test_a_cluster_node_is_named_as_such() -> None:
    assert "Redis Cluster" in str(answer_error("redis://a:1", b"MOVED 1 b:2"))


def test_the_memory_of_a_payload_is_used_again_but_never_while_somebody_looks() -> None:
    spares = Spares()
    parser = Answers("redis://x", spares)
    parser.expected = 4
    sizes = [200_000, 100_000, 190_000, 150_000]
    seen = set()
    for n, size in enumerate(sizes):
        payload = bytes([n]) * size
        (answer,) = give(parser, b"$%d\r\n%b\r\n" % (size, payload))
        assert answer.value == payload
        seen.add(id(answer.value))
        spares.give(answer.value)
    assert len(seen) == 1
    kept = spares.take(150_000)
    spares.give(kept)
    with memoryview(kept):
        assert spares.take(160_000) is not kept
