"""Hedging: with a scripted clock and scripted stores, and with two real servers of which one is slow."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest

from tests.store.conftest import must_end, within
from tests.store.routing import calls
from tests.store.test_redis_store import Start
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.redisserver import RedisServer
from zerofs.errors import ChunkCorruptError, ChunkError, StoreUnreachableError, ZerofsError
from zerofs.store import destination, latency, race
from zerofs.store.build import build_router
from zerofs.store.helpers import Helpers
from zerofs.store.layers import RouterConfig, Rule
from zerofs.store.ranges import EVERYTHING
from zerofs.store.router import Router
from zerofs.store.url import StoreUrl, parse_store_url

LATE = 0.02 * race.PATIENCE  # after so long a scripted store is late

# -- a world in which only the script takes time ---------------------------------------------


class World:
    """Its own clock, and helpers whose tasks end when the script says: nothing runs at the same time.

    A task is run when it is begun, with the clock put forward by what it takes and back again; what it leaves in
    a mailbox is seen by whoever waits until then.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.free = 16  # helpers
        self.tasks = 0

    def monotonic(self) -> float:
        return self.now

    def run(self, task: Callable[[], object]) -> bool:
        if not self.free:
            return False
        self.tasks += 1
        begun = self.now
        task()
        self.now = begun
        return True

    def mailbox(self) -> Mailbox:
        return Mailbox(self)


class Mailbox:
    def __init__(self, world: World) -> None:
        self._world = world
        self._items: list[tuple[float, int, object]] = []
        self._count = count()

    def put(self, item: object) -> None:
        heapq.heappush(self._items, (self._world.now, next(self._count), item))

    def take(self, timeout: float) -> object | None:
        end = self._world.now + max(0.0, timeout)
        assert end < float("inf"), "a wait without an end"
        if self._items and self._items[0][0] <= end:
            when, _, item = heapq.heappop(self._items)
            self._world.now = max(self._world.now, when)
            return item
        self._world.now = end
        return None


class Scripted:
    """A store that takes `seconds` for each batch of `size`; `held` is what it has, `script` overrules seconds."""

    def __init__(self, world: World, url: StoreUrl, *, patient: bool) -> None:
        self.display = url.display
        self.patient = patient
        self.seconds = 0.02
        self.size = 100
        self.script: list[float] = []
        self.held: Callable[[bytes], bytes | None] = lambda chunk_id: chunk_id * 3
        self.asked: list[tuple[float, bytes]] = []  # when, and for what
        self.ended = 0  # calls that were read to their end
        self._world = world

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[list[bytes | None]]:
        self.asked += [(self._world.now, chunk_id) for chunk_id in ids]
        for begin in range(0, len(ids), self.size):
            took = self.script.pop(0) if self.script else self.seconds
            if self.patient and patience is not None and took > patience:
                self._world.now += patience
                took -= patience
                yield []
            self._world.now += min(took, max(0.0, deadline - self._world.now))
            if self._world.now >= deadline:
                raise StoreUnreachableError(f"{self.display}: no answer in time")
            yield [self.held(chunk_id) for chunk_id in ids[begin : begin + self.size]]
        self.ended += 1

    def is_patient(self) -> bool:
        return self.patient

    def close(self) -> None: ...


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(time, "monotonic", world.monotonic)
    return world


class Fetching:
    """A router over two scripted replicas, and who has read what."""

    def __init__(
        self, world: World, monkeypatch: pytest.MonkeyPatch, *, patient: bool, pools: bool = False
    ) -> None:
        self.world = world
        urls = [parse_store_url(f"redis://{name}.invalid") for name in ("first", "second")]
        self.first, self.second = (Scripted(world, url, patient=patient) for url in urls)
        stores = dict(zip(urls, (self.first, self.second), strict=True))
        monkeypatch.setattr(destination, "open_store", stores.__getitem__)
        rules = [Rule(EVERYTHING, url) for url in urls]
        config = RouterConfig("r", {"p": tuple(rules)}, ("p",))
        if pools:
            config = RouterConfig("r", {"p": (rules[0],), "q": (rules[1], rules[1])}, ("p", "q"))
        self.router = Router([config], world)  # type: ignore[arg-type]
        self.judged: list[bytes] = []
        self.bad: set[bytes] = set()  # payloads that do not verify
        self.failed: list[ZerofsError] = []

    def fetch(self, ids: Sequence[bytes], seconds: float = 10.0) -> float:
        """How long it took."""
        began = self.world.now

        def judge(arrived: Sequence[tuple[int, bytes]]) -> list[ChunkError | None]:
            self.judged += [bytes(payload) for _, payload in arrived]
            return [ChunkCorruptError("bad") if payload in self.bad else None for _, payload in arrived]

        self.router.fetch_batches(ids, judge, lambda _, error: self.failed.append(error), began + seconds)
        return self.world.now - began

    def warm_up(self, chunks: int = 200) -> None:
        for number in range(chunks):
            self.fetch([b"%04x" % number])
        assert self.router.hedges().hedged == 0
        self.judged.clear()
        for store in (self.first, self.second):
            store.asked.clear()
            store.ended = 0


@pytest.fixture(params=[True, False], ids=["patient", "impatient"])
def fetching(world: World, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Fetching:
    """Over stores that let their caller go when nothing comes, and over such that do not."""
    return Fetching(world, monkeypatch, patient=request.param)


def test_a_late_replica_gets_a_second_one_beside_it_and_the_first_answer_counts(fetching: Fetching) -> None:
    fetching.warm_up()
    fetching.first.script = [4.0]
    took = fetching.fetch([b"aa"])
    assert took == pytest.approx(LATE + 0.02)  # what nearly all others took, and the second one
    assert fetching.judged == [b"aa" * 3]
    assert fetching.router.hedges()[1:] == (1, 1)
    assert (fetching.first.ended, fetching.second.ended) == (1, 1), "the loser was read to its end"
    assert fetching.fetch([b"bb"]) == pytest.approx(0.02)
    assert fetching.first.asked[-1][1] == b"aa", "how slow it was is known all the same"


def test_a_replica_that_was_never_heard_of_is_not_waited_for_until_half_of_the_time_is_over(
    fetching: Fetching,
) -> None:
    fetching.first.seconds = 1000.0
    took = fetching.fetch([b"aa"], 30.0)
    assert took == pytest.approx(latency.UNKNOWN * race.PATIENCE + 0.02)
    assert fetching.judged == [b"aa" * 3] and not fetching.failed


def test_a_first_one_that_is_only_a_little_late_wins_and_the_other_is_read_to_its_end(
    fetching: Fetching,
) -> None:
    fetching.warm_up()
    fetching.first.script = [0.03]
    assert fetching.fetch([b"aa"]) == pytest.approx(0.03)
    assert fetching.router.hedges()[1:] == (1, 0)
    assert fetching.judged == [b"aa" * 3]
    assert (fetching.first.ended, fetching.second.ended) == (1, 1)


def test_what_does_not_verify_wins_nothing(fetching: Fetching) -> None:
    fetching.warm_up()
    fetching.first.script = [0.5]
    fetching.second.held = lambda _: b"wrong"
    fetching.bad = {b"wrong"}
    assert fetching.fetch([b"aa"]) == pytest.approx(0.5)
    assert fetching.judged == [b"wrong", b"aa" * 3]
    assert not fetching.failed and fetching.router.hedges()[1:] == (1, 0)
    assert len(fetching.second.asked) == 1


@pytest.mark.parametrize("lacks", ["first", "second", "both"])
def test_one_that_lacks_the_chunk_ends_nothing(fetching: Fetching, lacks: str) -> None:
    fetching.warm_up()
    fetching.first.script = [0.5]
    for name in ("first", "second"):
        if lacks in (name, "both"):
            getattr(fetching, name).held = lambda _: None
    took = fetching.fetch([b"aa"])
    assert took == pytest.approx(LATE + 0.02 if lacks == "first" else 0.5)
    assert len(fetching.failed) == (lacks == "both")
    assert len(fetching.second.asked) == 1, "nobody is asked twice"
    if fetching.failed:
        assert str(fetching.failed[0]).count("missing") == 2


def test_never_more_than_a_few_per_cent(fetching: Fetching) -> None:
    """One in 22 is late on either side, which is less than a quantile sees and more than the budget bears."""
    for number in range(4000):
        fetching.first.script = [0.5] if number % 22 == 0 else []
        fetching.second.script = [0.5] if number % 22 == 0 else []
        fetching.fetch([b"%04x" % number])
    asked, hedged, _ = fetching.router.hedges()
    assert asked == 4000
    assert asked * race.SHARE / 2 < hedged <= asked * race.SHARE + race.AT_FIRST


def test_what_is_always_so_slow_is_not_late(fetching: Fetching) -> None:
    fetching.first.seconds = fetching.second.seconds = 0.3
    for number in range(400):
        fetching.fetch([b"%04x" % number])
    assert fetching.router.hedges().hedged == 0


def test_a_batch_that_stalls_is_hedged_for_what_is_owed(fetching: Fetching) -> None:
    for number in range(30):
        fetching.fetch([b"%04x" % (number * 100 + more) for more in range(64)])
    fetching.judged.clear()
    fetching.second.asked.clear()
    fetching.first.size = 16
    fetching.first.script = [0.02, 0.02, 9.0]
    ids = [b"%04x" % number for number in range(9000, 9064)]
    assert fetching.fetch(ids) == pytest.approx(0.02 * 2 + LATE + 0.02)
    assert sorted(fetching.judged) == [chunk_id * 3 for chunk_id in ids]
    assert [chunk_id for _, chunk_id in fetching.second.asked] == ids[32:]


def test_what_comes_twice_is_judged_once(fetching: Fetching) -> None:
    fetching.warm_up(134)  # earns four second requests
    fetching.first.size = 1
    fetching.first.script = [0.02, 1.0]
    ids = [b"%04x" % number for number in range(9000, 9010 + race.AT_FIRST)]
    assert fetching.fetch(ids) == pytest.approx(0.02 + 1.0 + (8 + race.AT_FIRST) * 0.02)
    assert sorted(fetching.judged) == [chunk_id * 3 for chunk_id in ids]
    assert [chunk_id for _, chunk_id in fetching.second.asked] == ids[1 : 5 + race.AT_FIRST]
    assert fetching.router.hedges()[1:] == (4 + race.AT_FIRST, 4 + race.AT_FIRST)


def test_another_pool_is_not_asked_before_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fetching = Fetching(world, monkeypatch, patient=True, pools=True)
    fetching.warm_up()
    assert world.tasks == 0
    fetching.first.script = [0.5]
    assert fetching.fetch([b"aa"]) == pytest.approx(0.5)
    assert not fetching.second.asked and world.tasks == 0


def test_without_a_free_helper_it_is_asked_as_ever(fetching: Fetching) -> None:
    fetching.warm_up()
    fetching.world.free = 0
    fetching.first.script = [0.5]
    assert fetching.fetch([b"aa"]) == pytest.approx(0.5)
    assert fetching.judged == [b"aa" * 3]


def test_both_silent_is_an_error_at_the_deadline(fetching: Fetching) -> None:
    fetching.warm_up()
    fetching.first.seconds = fetching.second.seconds = 1e9
    assert fetching.fetch([b"aa"], 10.0) <= 10.0 + race.GRACE
    assert len(fetching.failed) == 1 and isinstance(fetching.failed[0], StoreUnreachableError)


def test_an_error_of_the_judge_is_its_own(fetching: Fetching) -> None:
    fetching.warm_up()

    def judge(arrived: object) -> list[ChunkError | None]:
        raise ValueError("a fault of the judge")

    with pytest.raises(ValueError, match="of the judge"):
        fetching.router.fetch_batches([b"aa"], judge, print, fetching.world.now + 5)
    assert fetching.fetch([b"bb"]) == pytest.approx(0.02)


def test_a_replica_that_fails_is_asked_last_and_found_again(fetching: Fetching) -> None:
    """By the order alone: the probe is a thread of its own."""
    fetching.warm_up()
    broken = fetching.router._candidates(b"aa")[0].destination
    broken.breaker.failed()
    fetching.fetch([b"aa"])
    assert not fetching.first.asked and len(fetching.second.asked) == 1
    broken.breaker.succeeded()
    fetching.fetch([b"bb"])
    assert len(fetching.first.asked) == 1


# -- real ones -------------------------------------------------------------------------------

CHUNKS = {bytes([n % 256, n // 256]) * 8: b"payload %d" % n * 300 for n in range(600)}


def test_two_real_replicas_of_which_one_is_slow_at_times(
    redis_server: Start, proxied: Callable[[tuple[str, int]], FaultProxy]
) -> None:
    servers = [redis_server(), redis_server()]
    for server in servers:
        server.load(CHUNKS.items())
    proxies = [proxied((server.host, server.port)) for server in servers]
    for proxy in proxies:
        proxy.fault = Fault("delay", seconds=0.004)
    rules = "".join(f"    0:f: redis://{proxy.host}:{proxy.port}\n" for proxy in proxies)
    router = build_router(None, [("r", f"pools:\n  p:\n{rules}lookup: [p]\n".encode())], [], None)
    wrong: list[bytes] = []
    failed: list[ZerofsError] = []

    def fetch(ids: Sequence[bytes]) -> None:
        def accept(index: int, payload: bytes) -> None:
            if payload != CHUNKS[ids[index]]:
                wrong.append(ids[index])

        must_end(lambda: router.fetch_many(ids, accept, lambda _, fault: failed.append(fault), within(20)))

    ids = list(CHUNKS)
    for each in ids[:300]:
        fetch([each])
    for number in range(8):
        before = [calls(server) for server in servers]
        fetch(ids[300 + number : 301 + number])
        first = proxies[0] if calls(servers[0]) > before[0] else proxies[1]
        first.fault = Fault("delay", seconds=1.5)
        began = time.monotonic()
        fetch(ids[310 + number : 311 + number])
        took = time.monotonic() - began
        first.fault = Fault("delay", seconds=0.004)
        if router.hedges().won:
            break
    assert router.hedges().won and took < 1.5  # what the slow one takes at the least
    for begin in range(320, 600, 10):
        fetch(ids[begin : begin + 10])
    asked, hedged, won = router.hedges()
    assert not failed and not wrong
    assert 1 <= won <= hedged <= asked * race.SHARE + race.AT_FIRST
    # The losers' answers were read to their end: not one connection has been closed.
    end = time.monotonic() + 20
    while any(lacks_one(proxy, server) for proxy, server in zip(proxies, servers, strict=True)):
        assert time.monotonic() < end, "a connection was closed"
        time.sleep(0.05)
    router.close()


def lacks_one(proxy: FaultProxy, server: RedisServer) -> bool:
    """Whether a connection that was made once is not there."""
    with server.client() as client:
        clients = client.command("CLIENT", "LIST").decode().splitlines()
    return len(clients) - 1 != proxy.connections


def test_helpers_are_used_again_and_bounded() -> None:
    helpers = Helpers()
    go_on = threading.Event()
    begun = [threading.Event() for _ in range(40)]
    accepted = [helpers.run(lambda each=each: (each.set(), go_on.wait(30))) for each in begun]
    assert accepted.count(True) == 16 and accepted[:16] == [True] * 16
    assert all(each.wait(10) for each in begun[:16])
    go_on.set()
    done = threading.Event()
    end = time.monotonic() + 10
    while not helpers.run(done.set):
        assert time.monotonic() < end
    assert done.wait(10)
