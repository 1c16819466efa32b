"""The threads that fetch ahead: bounded by their budget, shared by several fetchers, asleep without work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.fetch.support import LARGE, FakeRouter, plain_of, until
from zerofs.errors import ZerofsError
from zerofs.fetch import fetcher as fetcher_module
from zerofs.fetch.background import Background, Transfer
from zerofs.fetch.budget import CHUNK, Budget
from zerofs.fetch.fetcher import Fetcher
from zerofs.fetch.flight import Done, Flight
from zerofs.flist.model import Chunk
from zerofs.store.link import Asked, Link


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Pile:
    """A source of so many chunks of one store, which are fetched when a test says so."""

    def __init__(self, count: int, clock: Clock | None = None, *, link: Link | None = None) -> None:
        self.link = link or Link()
        self.left = [
            Flight(Chunk(b"%d" % n, b"", CHUNK), b"", 0.0, demanded=False, way=self.link)
            for n in range(count)
        ]
        self.lock = threading.Lock()
        self.flying: list[tuple[list[Flight], Transfer, threading.Event, Asked]] = []
        self.taken = 0
        self.clock = clock or Clock()

    def take_ahead(self, room: Callable[[Link], int]) -> list[Flight]:
        with self.lock:
            most = room(self.link) if self.left else 0
            batch: list[Flight] = []
            while most and self.left and (not batch or (len(batch) + 1) * CHUNK <= most):
                batch.append(self.left.pop(0))
            self.taken += len(batch)
            return batch

    def fetch_ahead(self, batch: Sequence[Flight], transfer: Transfer) -> None:
        done = threading.Event()
        with self.lock:
            self.flying.append((list(batch), transfer, done, self.link.begin(self.clock.now)))
        assert done.wait(20)

    def land(self) -> None:
        """The next chunk of the oldest batch arrives."""
        with self.lock:
            batch, transfer, done, asked = self.flying[0]
            size = batch.pop(0).chunk.size
            if not batch:
                del self.flying[0]
        self.link.arrived(asked, self.clock.now, size)
        transfer.arrived(size, size)
        if not batch:
            self.link.end(asked)
            done.set()

    @property
    def in_flight(self) -> int:
        return sum(len(batch) for batch, *_ in self.flying) * CHUNK


def settled(background: Background, budget: Budget, pile: Pile) -> bool:
    """Whether the threads have asked for all that there is room for."""
    if pile.left and budget.room(pile.link):
        return False
    return pile.in_flight == background.in_flight() > 0


def test_what_is_in_flight_stays_below_the_window_while_the_link_is_measured() -> None:
    clock = Clock()
    budget = Budget(clock)
    background, pile = Background(budget), Pile(200, clock)
    background.wake(pile)
    most = 0
    while pile.taken < 200 or pile.flying:
        until(lambda: settled(background, budget, pile))
        most = max(most, len(pile.flying))
        assert background.in_flight() <= budget.window(pile.link)
        clock.now += 0.02 / len(pile.flying[0][0])
        pile.land()
    until(lambda: background.in_flight() == 0)
    assert most > 1, "several requests are on the link at once"


def test_a_store_whose_window_is_full_stops_no_other() -> None:
    clock = Clock()
    budget = Budget(clock)
    background, near, far = Background(budget), Pile(4, clock), Pile(12, clock)
    asked = far.link.begin(clock.now)
    clock.now += 0.2
    far.link.arrived(asked, clock.now, 20 * CHUNK)  # far away and wide: four chunks and one
    far.link.end(asked)
    for pile in (near, far):
        pile.link.begin(clock.now)
        background.wake(pile)
    wide = budget.window(far.link) // CHUNK
    until(lambda: near.taken == 1 and far.taken == min(12, wide))
    assert wide > 4
    assert budget.window(near.link) == CHUNK
    near.land()
    until(lambda: near.taken == 2)
    while far.flying or near.flying or far.left or near.left:
        for pile in (near, far):
            if pile.flying:
                assert pile.in_flight <= budget.window(pile.link)
                pile.land()
    assert (near.taken, far.taken) == (4, 12)


def test_a_rate_is_kept_by_the_threads() -> None:
    background, pile = Background(Budget(Clock())), Pile(2)
    background.limit(CHUNK)
    background.wake(pile)
    until(lambda: bool(pile.flying))
    pile.land()
    assert not pile.flying, "a clock that stands still lets nothing more go"
    assert pile.taken == 1


def test_sources_take_turns() -> None:
    background = Background(Budget(Clock(), most=CHUNK), threads=1)
    piles = [Pile(4), Pile(4)]
    for pile in piles:
        background.wake(pile)
    order = []
    for _ in range(8):
        until(lambda: any(pile.flying for pile in piles))
        turn = 0 if piles[0].flying else 1
        order.append(turn)
        piles[turn].land()
    joined = order.index(1) - 1  # the first may have had a second turn before the other came
    assert joined <= 1
    assert order[joined : joined + 6] == [0, 1] * 3


def test_nobody_is_asked_after_leaving_and_nobody_wakes_without_work() -> None:
    background, pile = Background(Budget(Clock())), Pile(2)
    background.wake(pile)
    until(lambda: bool(pile.flying))
    background.leave(pile)
    pile.land()
    until(lambda: background.in_flight() == 0)
    assert pile.taken == 1


def test_a_transfer_that_brings_less_than_it_asked_for_gives_all_of_it_back() -> None:
    budget, link = Budget(Clock()), Link()
    background = Background(budget)
    budget.take(link, 1000)
    transfer = Transfer(background, link, 1000)
    transfer.arrived(100, 300)
    assert 0 < budget.in_flight < 1000
    transfer.end()
    transfer.end()
    assert budget.in_flight == 0


# -- with fetchers -------------------------------------------------------------------------


class Wishes:
    """A feeder with a list of chunks."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks
        self.ends: list[tuple[Chunk, bytes | None, ZerofsError | None]] = []

    def take(self, room: int) -> list[tuple[Chunk, Done]]:
        taken, self.chunks = self.chunks[:4], self.chunks[4:]
        return [
            (chunk, lambda plain, error, chunk=chunk: self.ends.append((chunk, plain, error)))
            for chunk in taken
        ]


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    made = FakeRouter()
    yield made
    made.gate.set()


def test_a_feeder_is_asked_until_it_has_nothing_left(router: FakeRouter) -> None:
    chunks = [router.add(number) for number in range(10)]
    wishes = Wishes(chunks)
    fetcher = Fetcher(router, None, background=Background())
    fetcher.feed(wishes)
    fetcher.wake_background()
    until(lambda: len(wishes.ends) == 10)
    assert {(chunk, plain) for chunk, plain, _ in wishes.ends} == {
        (chunk, plain_of(number)) for number, chunk in enumerate(chunks)
    }
    fetcher.close()


def test_what_a_reader_waits_for_is_not_fetched_twice_and_the_feeder_told_so(router: FakeRouter) -> None:
    chunk = router.add(1)
    router.gate.clear()
    fetcher = Fetcher(router, None, background=Background())
    reader = threading.Thread(target=fetcher.read, args=(chunk,))
    reader.start()
    router.entered.acquire()
    wishes = Wishes([chunk])
    fetcher.feed(wishes)
    fetcher.wake_background()
    until(lambda: bool(wishes.ends))
    assert wishes.ends == [(chunk, None, None)]
    router.gate.set()
    reader.join()
    assert router.count(chunk) == 1
    fetcher.close()


def test_a_reader_joins_what_is_in_flight_ahead(router: FakeRouter) -> None:
    chunk = router.add(1, LARGE)
    router.gate.clear()
    fetcher = Fetcher(router, None, background=Background())
    fetcher.feed(Wishes([chunk]))
    fetcher.wake_background()
    router.entered.acquire()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fetcher.read(chunk)))
    reader.start()
    until(lambda: fetcher.stats().joined == 1)
    router.gate.set()
    reader.join()
    assert got == [plain_of(1, LARGE)]
    assert router.count(chunk) == 1
    fetcher.close()


def test_closing_ends_what_is_in_flight_ahead(router: FakeRouter) -> None:
    wishes = Wishes([router.add(1)])
    router.gate.clear()
    background = Background()
    fetcher = Fetcher(router, None, background=background)
    fetcher.feed(wishes)
    fetcher.wake_background()
    router.entered.acquire()
    fetcher.close()
    assert [type(error).__name__ for _, _, error in wishes.ends] == ["ClosingError"]
    router.gate.set()
    until(lambda: background.in_flight() == 0)


class TwoStores(FakeRouter):
    """Chunks with odd ids are far away."""

    def __init__(self) -> None:
        super().__init__()
        self.far = Link()
        self.is_far: set[bytes] = set()

    def way_to(self, chunk_id: bytes) -> Link:
        return self.far if chunk_id in self.is_far else self.link

    def ways(self) -> list[Link]:
        return [self.link, self.far]


def test_what_waits_for_one_store_holds_up_neither_another_nor_a_reader() -> None:
    router = TwoStores()
    chunks = [router.add(number, LARGE) for number in range(8)]
    router.is_far = {chunk.id for chunk in chunks[::2]}
    budget = Budget(Clock())
    budget.take(router.far, 1)  # its window is full for good
    fetcher = Fetcher(router, None, background=Background(budget))
    wishes = Wishes(list(chunks))
    fetcher.feed(wishes)
    fetcher.wake_background()
    until(lambda: len(wishes.ends) == 4)
    assert {chunk for chunk, *_ in wishes.ends} == set(chunks[1::2])
    assert not any(router.count(chunk) for chunk in chunks[::2])
    assert fetcher.read(chunks[0]) == plain_of(0, LARGE)
    assert router.count(chunks[0]) == 1
    fetcher._background.give(router.far, 1)
    until(lambda: len(wishes.ends) == 8)
    assert [router.count(chunk) for chunk in chunks] == [1] * 8
    fetcher.close()


def test_few_chunks_wait_for_a_store_whose_window_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher_module, "MOST_PARKED", 10)
    router = TwoStores()
    chunks = [router.add(number) for number in range(100)]
    router.is_far = {chunk.id for chunk in chunks[:90]}
    budget = Budget(Clock())
    budget.take(router.far, 1)
    fetcher = Fetcher(router, None, background=Background(budget))
    wishes = Wishes(list(chunks))
    fetcher.feed(wishes)
    fetcher.wake_background()
    until(lambda: len(wishes.chunks) <= 90)
    time.sleep(0.1)  # for those that must not be taken
    assert len(wishes.chunks) > 80, "four at a time"
    fetcher.close()
    assert all(error is not None for *_, error in wishes.ends)
