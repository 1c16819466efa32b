"""The router over real stores: what it finds where, and what it says of what it does not find."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from tests.store.conftest import must_end, within
from tests.store.routing import CHUNKS, IDS, Proxied, Reader, calls, corrupted, router_of
from tests.store.test_redis_store import Start, store_at
from tests.support.redisserver import free_port
from zerofs.errors import (
    ChunkCorruptError,
    ChunkError,
    ChunkMissingError,
    StoreAuthError,
    StoreRefusedError,
    StoreUnreachableError,
    ZerofsError,
)
from zerofs.flist.model import Route
from zerofs.store import router as router_module
from zerofs.store.build import build_router
from zerofs.store.link import link_to
from zerofs.store.url import parse_store_url


def test_the_way_to_a_chunk_is_that_to_who_gave_the_last_of_its_kind(directories: dict[str, str]) -> None:
    far, other = (store_at(directories[name]) for name in "bc")
    far.put_many(list(CHUNKS.items()), within())
    other.put_many(list(CHUNKS.items()), within())
    urls = {name: parse_store_url(url) for name, url in directories.items()}
    text = (
        f"pools:\n  near: {{'0:f': '{directories['a']}'}}\n"
        f"  far: {{'0:7': '{directories['b']}', '8:e': '{directories['c']}'}}\nlookup: [near, far]\n"
    )
    router = router_of(text)
    low, high, top = bytes(16), b"\x80" * 16, b"\xff" * 16
    assert {router.way_to(chunk_id) for chunk_id in (low, high, top)} == {link_to(urls["a"])}
    Reader([chunk_id for chunk_id in IDS if chunk_id[0] < 0xF0]).read(router)
    assert router.way_to(low) is link_to(urls["b"])
    assert router.way_to(high) is link_to(urls["c"])
    assert router.way_to(top) is link_to(urls["a"]), "nobody gave one of those"
    assert set(router.ways()) == {link_to(urls["b"]), link_to(urls["c"])}
    assert link_to(urls["b"]).delay > 0
    assert router_of("pools:\n  p: {'1': 'dir:///nowhere'}\nlookup: [p]\n").way_to(low).bandwidth == 0
    router.close()


@pytest.mark.parametrize("most_known", [0, 1, 4096])
def test_ids_that_begin_alike_have_the_same_candidates_and_others_their_own(
    directories: dict[str, str], monkeypatch: pytest.MonkeyPatch, most_known: int
) -> None:
    monkeypatch.setattr(router_module, "MOST_KNOWN", most_known)
    rules = f"{{'0:7': '{directories['a']}', '80:8f': '{directories['b']}', '801:8ff': '{directories['c']}'}}"
    router = router_of(f"pools: {{p: {rules}}}\nlookup: [p]\n")
    held = {
        b"\x00" * 16: "a",
        b"\x7f" * 16: "a",
        b"\x80\x0f" * 8: "b",
        b"\x80\x10" * 8: "bc",
        b"\x8f\xff" * 8: "bc",
        b"\x90" * 16: "",
        b"8": "",  # shorter than the ranges
        b"80": "b",
        b"801-and-more": "bc",
        b"8010": "bc",
    }
    for _ in range(2):
        for chunk_id, names in held.items():
            candidates = router._candidates(chunk_id)
            assert [each.destination.display for each in candidates] == [directories[name] for name in names]
    assert len(router._known) <= most_known
    if most_known > 1:
        assert router._candidates(b"\x80\x10" * 8) is router._candidates(b"801-and-more")
    router.close()


def test_what_a_judge_of_batches_refuses_is_asked_for_elsewhere(directories: dict[str, str]) -> None:
    bad = set(IDS[::3])
    store_at(directories["a"]).put_many(
        [(each, corrupted(each) if each in bad else CHUNKS[each]) for each in IDS[1:]], within()
    )
    store_at(directories["b"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools:\n  near: {{'0:f': '{directories['a']}'}}\n  far: {{'0:f': '{directories['b']}'}}\n"
        f"  keep: {{'0:f': '{directories['c']}'}}\nlookup: [near, far]\ncache: [keep]\n"
    )
    reader = Reader()
    offered: list[list[int]] = []

    def judge(arrived: Sequence[tuple[int, bytes]]) -> list[ChunkError | None]:
        offered.append([index for index, _ in arrived])
        verdicts: list[ChunkError | None] = []
        for index, payload in arrived:
            try:
                reader.accept(index, payload)
                verdicts.append(None)
            except ChunkError as refused:
                verdicts.append(refused)
        return verdicts

    must_end(lambda: router.fetch_batches(IDS, judge, reader.fail, within()))
    assert reader.got == dict(enumerate(CHUNKS.values()))
    assert offered == [list(range(1, len(IDS))), list(range(0, len(IDS), 3))]
    assert router.drain(10)
    assert list(store_at(directories["c"]).get_many(IDS, within())) == list(CHUNKS.values())
    router.close()


def test_the_error_names_each_destination_and_why(redis_server: Start, directories: dict[str, str]) -> None:
    locked = redis_server(password="pw")
    down = f"redis://127.0.0.1:{free_port()}"
    store_at(directories["a"]).put_many([(IDS[0], corrupted(IDS[0]))], within())
    router = router_of(
        f"pools:\n  p:\n    0:f: {directories['a']}\n    0:f: {directories['b']}\n    0:f: {down}\n"
        f"    0:f: redis://hunter2@{locked.host}:{locked.port}\nlookup: [p]\n"
    )
    error = Reader(IDS[:1]).read(router, 0.5).failed[0]
    assert type(error) is StoreAuthError
    message = str(error)
    assert message.startswith(f"chunk {IDS[0].hex()}: ")
    assert "do not hash" in message
    assert f"{directories['b']}: missing" in message
    assert f"{down}: Connection refused" in message
    assert f"redis://{locked.host}:{locked.port}: WRONGPASS" in message
    assert "hunter2" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("held", "url", "kind"),
    [
        ("nothing", None, ChunkMissingError),
        ("corrupt", None, ChunkCorruptError),
        ("nothing", "redis://127.0.0.1:{port}", StoreUnreachableError),
        ("corrupt", "redis://127.0.0.1:{port}", ChunkCorruptError),
        ("nothing", "dir:///does/not/exist", StoreRefusedError),
    ],
)
def test_the_most_telling_error_is_raised(
    directories: dict[str, str], held: str, url: str | None, kind: type[ZerofsError]
) -> None:
    if held == "corrupt":
        store_at(directories["a"]).put_many([(IDS[0], corrupted(IDS[0]))], within())
    more = f"    0:f: {url.format(port=free_port())}\n" if url else ""
    router = router_of(
        f"pools:\n  p:\n    0:f: {directories['a']}\n    0:f: {directories['b']}\n{more}lookup: [p]\n"
    )
    assert type(Reader(IDS[:1]).read(router, 0.3).failed[0]) is kind


def test_a_chunk_that_nothing_routes(directories: dict[str, str]) -> None:
    router = router_of(f"pools: {{p: {{'00:7f': '{directories['a']}'}}}}\nlookup: [p]\n")
    error = Reader([IDS[-1]]).read(router).failed[0]
    assert type(error) is ChunkMissingError and "no router has a range" in str(error)


def test_missing_chunks_are_not_asked_for_again_and_do_not_trip_the_breaker(
    redis_server: Start, proxied: Proxied
) -> None:
    server = redis_server()
    router = build_router(None, [], [], server.url)
    for _ in range(20):
        reader = Reader(IDS[:3]).read(router)
        assert all(type(error) is ChunkMissingError for error in reader.failed.values())
    with server.client() as client:
        stats = client.command("INFO", "commandstats").decode()
    assert "cmdstat_get:calls=60," in stats
    server.load(CHUNKS.items())
    assert not Reader().read(router).failed


def test_a_bad_key_in_the_middle_fails_alone(redis_server: Start) -> None:
    server = redis_server()
    server.load(CHUNKS.items())
    with server.client() as client:
        client.command("DEL", IDS[7])
        client.command("LPUSH", IDS[7], "x")
    reader = Reader().read(build_router(None, [], [], server.url))
    assert list(reader.failed) == [7] and "WRONGTYPE" in str(reader.failed[7])


def test_many_threads_at_once(redis_server: Start, directories: dict[str, str]) -> None:
    server = redis_server()
    server.load(list(CHUNKS.items())[::2])
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools:\n  c: {{'0:f': '{directories['b']}'}}\n"
        f"  p:\n    0:f: {server.url}\n    0:f: {directories['a']}\nlookup: [c, p]\ncache: [c]\n"
    )
    readers = [Reader() for _ in range(8)]
    threads = [threading.Thread(target=reader.read, args=(router,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(len(reader.got) == len(IDS) for reader in readers)
    assert router.drain(10)
    assert all(store_at(directories["b"]).exists_many(IDS, within()))


def test_an_error_of_the_reader_is_its_own(directories: dict[str, str]) -> None:
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())

    def accept(index: int, payload: bytes) -> None:
        raise ValueError("a fault of the reader")

    with pytest.raises(ValueError, match="of the reader"):
        build_router(None, [], [], directories["a"]).fetch_many(IDS, accept, lambda *_: None, within())


def test_routes_of_a_flist_any_of_which_may_have_it(directories: dict[str, str]) -> None:
    store_at(directories["a"]).put_many(list(CHUNKS.items())[::2], within())
    store_at(directories["b"]).put_many(list(CHUNKS.items())[1::2], within())
    routes = [Route(0, 255, "s3s://key:hunter2@s3.example/bucket?region=x")]
    routes += [Route(0, 250, directories["a"]), Route(0, 250, directories["b"])]
    reader = Reader().read(build_router(None, [], routes, None))
    last = len(IDS) - 1
    assert list(reader.failed) == [last]  # 0xff: only the unsupported one routes it
    assert "s3s:// stores are not supported" in str(reader.failed[last])
    assert "hunter2" not in str(reader.failed[last])


def test_a_store_that_several_rules_name_is_asked_once(redis_server: Start) -> None:
    server = redis_server()
    router = router_of(
        f"pools:\n  p:\n    0:f: {server.url}\n    00:ff: {server.url}\n  q: {{'0:f': '{server.url}'}}\n"
        "lookup: [p, q]\n"
    )
    error = Reader(IDS[:1]).read(router).failed[0]
    assert str(error).count("missing") == 1
    assert calls(server) == 1
