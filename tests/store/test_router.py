"""The router over real stores, and against a plain model of what it has to find."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.conftest import must_end, within
from tests.store.test_redis_store import Start, store_at
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.redisserver import free_port
from zerofs.errors import (
    ChunkCorruptError,
    ChunkError,
    ChunkMissingError,
    StoreAuthError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnreachableError,
    ZerofsError,
)
from zerofs.flist.model import Route
from zerofs.store import breaker, destination, latency, writeback
from zerofs.store import router as router_module
from zerofs.store.base import gather
from zerofs.store.build import build_router
from zerofs.store.layers import RouterConfig, Rule
from zerofs.store.link import link_to
from zerofs.store.ranges import IdRange
from zerofs.store.router import Router
from zerofs.store.url import StoreUrl, parse_store_url

Proxied = Callable[[tuple[str, int]], FaultProxy]

CHUNKS = {bytes([number, 255]) * 8: b"payload %d" % number * 40 for number in range(0, 256, 5)}
IDS = list(CHUNKS)


def corrupted(chunk_id: bytes) -> bytes:
    return b"!" + CHUNKS[chunk_id][1:]


class Reader:
    """A fetcher's part: accepts what verifies."""

    def __init__(self, ids: Sequence[bytes] = tuple(IDS)) -> None:
        self.ids = ids
        self.got: dict[int, bytes] = {}
        self.failed: dict[int, ZerofsError] = {}

    def accept(self, index: int, payload: bytes) -> None:
        if payload != CHUNKS[self.ids[index]]:
            raise ChunkCorruptError("the bytes do not hash to the key")
        assert index not in self.got and index not in self.failed
        self.got[index] = payload

    def fail(self, index: int, error: ZerofsError) -> None:
        assert index not in self.got and index not in self.failed
        self.failed[index] = error

    def read(self, router: Router, seconds: float = 10.0) -> Reader:
        must_end(lambda: router.fetch_many(self.ids, self.accept, self.fail, within(seconds)))
        assert len(self.got) + len(self.failed) == len(self.ids)
        return self


def router_of(text: str) -> Router:
    return build_router(None, [("router.yaml", text.encode())], [], None)


@pytest.fixture
def directories(tmp_path: Path) -> dict[str, str]:
    """URLs of three empty directory stores: a, b, c."""
    for name in "abc":
        (tmp_path / name).mkdir()
    return {name: f"dir://{tmp_path}/{name}" for name in "abc"}


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


@pytest.mark.parametrize("backend", ["redis", "dir"])
def test_two_replicas_one_corrupt_one_missing_some_and_a_cache_that_fills(
    redis_server: Start, directories: dict[str, str], backend: str
) -> None:
    urls = [redis_server().url for _ in range(3)] if backend == "redis" else list(directories.values())
    corrupt, gaps, cache = map(store_at, urls)
    bad, absent = set(IDS[::2]), set(IDS[1::2])
    corrupt.put_many([(each, corrupted(each) if each in bad else CHUNKS[each]) for each in IDS], within())
    gaps.put_many([(each, CHUNKS[each]) for each in IDS if each not in absent], within())
    router = router_of(
        f"pools:\n  local: {{'00:FF': '{urls[2]}'}}\n"
        f"  hub:\n    00:FF: {urls[0]}\n    00:FF: {urls[1]}\n"
        "lookup: [local, hub]\ncache: [local]\n"
    )
    reader = Reader().read(router)
    assert not reader.failed and len(reader.got) == len(IDS)
    assert router.drain(10)
    assert list(cache.get_many(IDS, within())) == list(CHUNKS.values())
    assert router.written_back() == (len(IDS), 0)
    assert not Reader().read(router).failed  # all from the cache now:
    assert router.drain(10)
    assert router.written_back() == (len(IDS), 0)
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


def test_a_corrupt_chunk_in_the_cache_pool_is_replaced(directories: dict[str, str]) -> None:
    store_at(directories["a"]).put_many([(each, corrupted(each)) for each in IDS], within())
    store_at(directories["b"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{near: {{'0:f': '{directories['a']}'}}, far: {{'0:f': '{directories['b']}'}}}}\n"
        "lookup: [near, far]\ncache: [near]\n"
    )
    assert not Reader().read(router).failed
    assert router.drain(10)
    assert list(store_at(directories["a"]).get_many(IDS, within())) == list(CHUNKS.values())


def test_a_cache_pool_that_is_down_or_full_fails_no_read(
    directories: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writeback, "MAX_BYTES", 2000)
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{c: {{'0:f': redis://127.0.0.1:{free_port()}}}, p: {{'0:f': '{directories['a']}'}}}}\n"
        "lookup: [p]\ncache: [c]\n"
    )
    assert not Reader().read(router).failed
    assert router.drain(10)
    assert router.written_back() == (0, len(IDS))
    assert sum("not written to a cache pool" in line for line in caplog.messages) == 1
    router.close()


def test_a_cache_pool_that_hangs_holds_nobody_up(
    redis_server: Start, proxied: Proxied, directories: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "MAX_BYTES", 2000)
    monkeypatch.setattr(router_module, "CLOSE_TIMEOUT", 0.1)
    server = redis_server()
    proxy = proxied((server.host, server.port))
    proxy.fault = Fault("silence")
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{c: {{'0:f': redis://{proxy.host}:{proxy.port}}}, p: {{'0:f': '{directories['a']}'}}}}\n"
        "lookup: [p]\ncache: [c]\n"
    )
    assert not Reader().read(router).failed
    written, dropped = router.written_back()
    assert written == 0 and dropped > 0  # what is more than the queue holds, while the store hangs
    must_end(router.close)


def test_a_cache_gets_only_what_its_ranges_take(directories: dict[str, str]) -> None:
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools: {{c: {{'00:7f': '{directories['b']}'}}, p: {{'0:f': '{directories['a']}'}}}}\n"
        "lookup: [p]\ncache: [c]\n"
    )
    Reader().read(router)
    assert router.drain(10)
    there = store_at(directories["b"]).exists_many(IDS, within())
    assert there == [each < b"\x80" for each in IDS]


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


@pytest.mark.parametrize(
    "fault",
    [
        Fault("silence"),
        Fault("silence", after=3000),
        Fault("cut", after=3000),
        Fault("reset"),
        Fault("half-close"),
        Fault("garbage", data=b"garbage"),
        Fault("corrupt", after=3000),
        Fault("trickle", after=3000),
    ],
)
def test_a_replica_stands_in(
    redis_server: Start, proxied: Proxied, fault: Fault, directories: dict[str, str]
) -> None:
    server = redis_server()
    server.load(CHUNKS.items())
    proxy = proxied((server.host, server.port))
    proxy.fault = fault
    store_at(directories["a"]).put_many(list(CHUNKS.items()), within())
    router = router_of(
        f"pools:\n  p:\n    0:f: redis://{proxy.host}:{proxy.port}\n    0:f: {directories['a']}\nlookup: [p]\n"
    )
    assert not Reader().read(router, 2.0).failed


@pytest.mark.parametrize(
    "fault", [Fault("silence"), Fault("cut"), Fault("garbage", data=b"?"), Fault("trickle")]
)
def test_without_a_replica_the_deadline_ends_it(redis_server: Start, proxied: Proxied, fault: Fault) -> None:
    server = redis_server()
    server.load(CHUNKS.items())
    proxy = proxied((server.host, server.port))
    proxy.fault = fault
    router = build_router(None, [], [], f"redis://{proxy.host}:{proxy.port}")
    reader = Reader().read(router, 0.5)
    assert all(isinstance(error, StoreUnreachableError) for error in reader.failed.values())
    assert reader.failed
    proxy.fault = None
    assert not Reader().read(router).failed


def test_a_short_outage_is_waited_for(redis_server: Start) -> None:
    server = redis_server()
    server.stop()
    router = build_router(None, [], [], server.url)
    reader = Reader()
    reading = threading.Thread(target=reader.read, args=(router, 20.0))
    reading.start()
    time.sleep(0.5)
    server.start()
    server.load(CHUNKS.items())
    reading.join(60)
    assert not reading.is_alive()
    # The first answers may come before everything is loaded again: those are honest misses.
    assert all(type(error) is ChunkMissingError for error in reader.failed.values())
    assert not Reader().read(router).failed


def test_what_has_failed_for_long_is_tried_once_and_heals(
    redis_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PATIENCE", 0.2)
    server = redis_server()
    server.stop()
    router = build_router(None, [], [], server.url)
    deadline = within(60)
    reader = Reader(IDS[:1])
    must_end(lambda: router.fetch_many(reader.ids, reader.accept, reader.fail, deadline))
    assert type(reader.failed[0]) is StoreUnreachableError
    assert time.monotonic() < deadline
    server.start()
    server.load(CHUNKS.items())
    assert not Reader().read(router).failed


def test_after_the_first_deadline_a_silent_store_is_soon_known_and_heals(
    redis_server: Start, proxied: Proxied
) -> None:
    server = redis_server()
    server.load(CHUNKS.items())
    proxy = proxied((server.host, server.port))
    router = build_router(None, [], [], f"redis://127.0.0.1:{proxy.port}")
    proxy.fault = Fault("silence")
    for seconds, at_least in ((2.0, 1.5), (60.0, 0.0), (60.0, 0.0)):
        reader = Reader(IDS[:1])
        started = time.monotonic()
        must_end(lambda: router.fetch_many(reader.ids, reader.accept, reader.fail, within(seconds)))  # noqa: B023
        assert type(reader.failed[0]) is StoreTimeoutError
        assert at_least <= time.monotonic() - started < 10 + at_least  # far from a minute
    proxy.fault = None
    assert not Reader().read(router).failed
    router.close()


def test_closing_ends_retries(redis_server: Start) -> None:
    router = build_router(None, [], [], f"redis://127.0.0.1:{free_port()}")
    reader = Reader(IDS[:1])
    closer = threading.Timer(0.2, router.close)
    closer.start()
    deadline = within(60)
    must_end(lambda: router.fetch_many(reader.ids, reader.accept, reader.fail, deadline))
    closer.join()
    assert reader.failed and time.monotonic() < deadline


def test_a_dead_replica_is_passed_over_and_probed(
    redis_server: Start, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    first, second = redis_server(), redis_server()
    first.load(CHUNKS.items())
    second.load(CHUNKS.items())
    proxy = proxied((first.host, first.port))
    proxy.fault = Fault("cut")
    router = router_of(
        f"pools:\n  p:\n    0:f: redis://{proxy.host}:{proxy.port}\n    0:f: {second.url}\nlookup: [p]\n"
    )
    for _ in range(breaker.THRESHOLD):
        assert not Reader().read(router).failed
    connections = proxy.connections
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 60)
    for _ in range(5):
        assert not Reader().read(router).failed
    assert proxy.connections <= connections + 2  # probes, not readers
    proxy.fault = None
    used_before = calls(first)
    for _ in range(500):
        assert not Reader().read(router).failed
        if calls(first) > used_before + len(IDS):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the replica came back, but nobody asks it")


def calls(server: object) -> int:
    with server.client() as client:  # type: ignore[attr-defined]
        stats = client.command("INFO", "commandstats").decode()
    return int(stats.split("cmdstat_get:calls=")[1].split(",")[0]) if "cmdstat_get:" in stats else 0


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


# -- against a plain model -------------------------------------------------------------------


class MemoryStore:
    """Holds chunks in a dict; `broken` makes it refuse everything, `state` of a chunk is what it holds."""

    def __init__(self, url: StoreUrl) -> None:
        self.display = url.display
        self.held: dict[bytes, bytes] = {}
        self.broken = False

    def get_many(self, ids: Sequence[bytes], deadline: float) -> Iterator[bytes | None]:
        for each in ids:
            if self.broken:
                raise StoreRefusedError(f"{self.display}: refused")
            yield self.held.get(each)

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[list[bytes | None]]:
        return gather((payload, lambda: True) for payload in self.get_many(ids, deadline))

    def is_patient(self) -> bool:
        return False

    def exists_many(self, ids: Sequence[bytes], deadline: float) -> list[bool]:
        return [each in self.held for each in ids]

    def put_many(self, items: Sequence[tuple[bytes, bytes]], deadline: float) -> None:
        self.held.update(items)

    def close(self) -> None: ...


NAMES = ["s0", "s1", "s2", "s3"]
digits = st.text("0123456789abcdef", min_size=1, max_size=2)
rules = st.tuples(digits, digits, st.sampled_from(NAMES)).map(
    lambda drawn: Rule(
        IdRange(*sorted((drawn[0][:1], drawn[1][:1]))), parse_store_url(f"redis://{drawn[2]}.invalid")
    )
)
layers = st.lists(
    st.dictionaries(st.sampled_from("pqr"), st.lists(rules, max_size=4).map(tuple), min_size=1).flatmap(
        lambda pools: st.builds(
            RouterConfig,
            st.just("r"),
            st.just(pools),
            st.lists(st.sampled_from(sorted(pools)), min_size=1, unique=True).map(tuple),
            st.just(()),
        )
    ),
    min_size=1,
    max_size=3,
)
states = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(IDS)), st.sampled_from(["good", "bad"]), max_size=120
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers, states, st.sets(st.sampled_from(NAMES)))
def test_what_is_found_and_where_equals_the_model(
    monkeypatch: pytest.MonkeyPatch,
    layers: list[RouterConfig],
    states: dict[tuple[str, bytes], str],
    broken: set[str],
) -> None:
    stores = {url: MemoryStore(url) for url in (parse_store_url(f"redis://{name}.invalid") for name in NAMES)}
    for (name, chunk_id), state in states.items():
        url = parse_store_url(f"redis://{name}.invalid")
        # Who served a chunk shows in what is served.
        stores[url].held[chunk_id] = name.encode() if state == "good" else b"bad"
    for name in broken:
        stores[parse_store_url(f"redis://{name}.invalid")].broken = True
    monkeypatch.setattr(destination, "open_store", stores.__getitem__)
    monkeypatch.setattr(latency, "SLACK", 60.0)  # the model knows no clock: the order is that of the rules
    got: dict[int, bytes] = {}
    failed: dict[int, ZerofsError] = {}

    def accept(index: int, payload: bytes) -> None:
        if payload == b"bad":
            raise ChunkCorruptError("bad")
        got[index] = payload

    Router(layers).fetch_many(IDS, accept, failed.__setitem__, within())
    for index, chunk_id in enumerate(IDS):
        expected = model(layers, states, broken, chunk_id)
        if isinstance(expected, bytes):
            assert got[index] == expected
        else:
            assert type(failed[index]) is expected


def model(
    layers: list[RouterConfig], states: dict[tuple[str, bytes], str], broken: set[str], chunk_id: bytes
) -> bytes | type[ZerofsError]:
    """Who serves the chunk, or the class of the error."""
    seen = set()
    for layer in layers:
        for pool in layer.lookup:
            for ids, url in layer.pools[pool]:
                if int(ids.first, 16) <= chunk_id[0] >> 4 <= int(ids.last, 16):
                    assert isinstance(url, StoreUrl)
                    name = url.host.partition(".")[0]
                    state = "broken" if name in broken else states.get((name, chunk_id), "missing")
                    if state == "good":
                        return name.encode()
                    seen.add(state)
    if "bad" in seen:
        return ChunkCorruptError
    return StoreRefusedError if "broken" in seen else ChunkMissingError


def test_a_timeout_is_an_error_of_its_own(proxied: Proxied, redis_server: Start) -> None:
    server = redis_server()
    proxy = proxied((server.host, server.port))
    proxy.fault = Fault("silence")
    router = build_router(None, [], [], f"redis://{proxy.host}:{proxy.port}")
    error = Reader(IDS[:1]).read(router, 0.3).failed[0]
    assert type(error) is StoreTimeoutError and "--timeout" in error.hint
