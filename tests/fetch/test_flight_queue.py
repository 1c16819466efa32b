"""How waiting flights are shared out in batches."""

from __future__ import annotations

from zerofs.fetch import flight as flight_module
from zerofs.fetch.flight import Flight, FlightQueue
from zerofs.flist.model import Chunk
from zerofs.store.link import Link

WAY = Link()


def flights(queue: FlightQueue, sizes: list[int], *, demanded: bool = True, way: Link = WAY) -> list[Flight]:
    made = [
        Flight(Chunk(b"%d" % n, b"", size), b"", 0.0, demanded=demanded, way=way)
        for n, size in enumerate(sizes)
    ]
    assert all(queue.add(flight) for flight in made)
    return made


def test_an_empty_queue_gives_nothing() -> None:
    assert FlightQueue().take(1) == []
    assert FlightQueue().take_ahead(lambda _: 1 << 20) == []


def test_free_threads_share_what_is_queued_in_order() -> None:
    queue = FlightQueue()
    made = flights(queue, [100] * 10)
    assert queue.take(4) == made[:3]
    assert queue.take(3) == made[3:6]
    assert queue.take(1) == made[6:]


def test_a_batch_is_bounded_by_count_and_bytes() -> None:
    queue = FlightQueue()
    flights(queue, [10] * 200)
    assert len(queue.take(1)) == flight_module.MOST_CHUNKS
    queue = FlightQueue()
    flights(queue, [512 * 1024] * 50)
    assert len(queue.take(1)) == flight_module.MOST_BYTES // (512 * 1024) == 8
    queue = FlightQueue()
    flights(queue, [100 << 20] * 2)
    assert len(queue.take(1)) == 1


def test_demand_and_the_background_do_not_mix() -> None:
    queue = FlightQueue()
    ahead = flights(queue, [512 * 1024] * 10, demanded=False)
    demand = flights(queue, [10])
    assert len(queue) == 1
    assert queue.take(1) == demand
    assert queue.take(1) == []
    assert queue.take_ahead(lambda _: 2 << 20) == ahead[:4]
    assert queue.take_ahead(lambda _: 1) == ahead[4:5], "one chunk at least"


def test_a_promoted_flight_is_taken_once() -> None:
    queue = FlightQueue()
    ahead = flights(queue, [10] * 3, demanded=False)
    queue.promote(ahead[1])
    assert ahead[1].demanded
    assert queue.take(1) == [ahead[1]]
    assert queue.take_ahead(lambda _: 1 << 20) == [ahead[0], ahead[2]]
    assert queue.take_ahead(lambda _: 1 << 20) == []


def test_a_batch_of_the_background_goes_one_way_and_a_way_without_room_stops_no_other() -> None:
    queue = FlightQueue()
    narrow, wide = Link(), Link()
    first = flights(queue, [10] * 3, demanded=False, way=narrow)
    second = flights(queue, [10] * 3, demanded=False, way=wide)
    assert queue.waiting == 6
    assert queue.take_ahead(lambda way: 0 if way is narrow else 20) == second[:2]
    queue.promote(first[0])
    assert queue.take(1) == first[:1]
    assert queue.take_ahead(lambda _: 100) == first[1:]
    assert queue.take_ahead(lambda _: 100) == second[2:]
    assert queue.waiting == 0


def test_the_background_is_bounded() -> None:
    queue = FlightQueue()
    flights(queue, [1] * flight_module.MOST_AHEAD, demanded=False)
    assert not queue.add(Flight(Chunk(b"", b"", 1), b"", 0.0, demanded=False, way=WAY))
    queue.take_ahead(lambda _: 1)
    assert queue.add(Flight(Chunk(b"", b"", 1), b"", 0.0, demanded=False, way=WAY))
    assert queue.add(Flight(Chunk(b"", b"", 1), b"", 0.0, demanded=True))
