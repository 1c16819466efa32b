"""What is fetched next, and how it is counted."""

from __future__ import annotations

from tests.prefetch.support import CHUNK, NumberCache, NumberTree
from zerofs.prefetch.plan import MOST_IN_BATCH, MOST_WAITING, Outcome, Plan

ROOM = 1 << 40


def make(
    cache: NumberCache, *files: int, sizes: dict[int, int] | None = None
) -> tuple[Plan, list[list[int]]]:
    """A plan over files of so many chunks each, and the numbers of each file's chunks."""
    numbers = iter(range(sum(files)))
    tree = {row: [next(numbers) for _ in range(count)] for row, count in enumerate(files)}
    return Plan(NumberTree(tree, sizes), cache.has), list(tree.values())


def read(plan: Plan, cache: NumberCache, row: int, position: int, number: int) -> None:
    """What a reader does: the chunk is in the cache afterwards."""
    missing = () if number in cache.numbers else (number,)
    plan.touched(row, position, position, missing)
    cache.numbers.add(number)


def bring(plan: Plan, cache: NumberCache, room: int = ROOM) -> list[int]:
    taken = plan.take(room)
    for number in taken:
        cache.numbers.add(number)
        plan.landed(number, Outcome.BROUGHT)
    return taken


def test_sequential_reads_are_run_ahead_of() -> None:
    cache = NumberCache()
    plan, (file,) = make(cache, 100)
    fetched: list[int] = []
    for position, number in enumerate(file):
        read(plan, cache, 0, position, number)
        fetched += bring(plan, cache)
    assert fetched == file[2:]
    assert plan.counters.missed == 2
    assert plan.counters.used == 98
    assert plan.counters.as_dict()["precision"] == 1


def test_a_file_that_is_cached_is_left_alone() -> None:
    cache = NumberCache(range(100))
    plan, (file,) = make(cache, 100)
    for position, number in enumerate(file):
        read(plan, cache, 0, position, number)
        assert bring(plan, cache) == []
    assert plan.counters.hits == 100
    assert plan.counters.as_dict()["recall"] == 1


def test_a_replay_brings_what_is_missing_in_its_order_and_nothing_twice() -> None:
    cache = NumberCache([3, 4])
    plan, _ = make(cache, 10)
    plan.replay([9, 3, 1, 4, 5])
    assert plan.take(2 * CHUNK) == [9, 1]
    assert plan.take(ROOM) == [5]
    assert not plan.left
    assert plan.take(ROOM) == []


def test_a_warm_replay_costs_a_few_looks_until_something_is_missed() -> None:
    cache = NumberCache(range(5000))
    plan, _ = make(cache, 5001)
    plan.replay(range(5000))
    assert not plan.left
    assert cache.looks < 200
    cache.numbers -= set(range(2001, 2010))
    plan.touched(0, 5000, 5000, (5000,))
    assert plan.left
    assert plan.take(ROOM) == list(range(2001, 2010))


def test_streams_come_before_guesses_and_guesses_before_the_replay() -> None:
    cache = NumberCache()
    plan, (big, _) = make(cache, 10, 10)
    plan.replay([19])
    plan.suggest([15])
    plan.touched(0, 0, 1, (0, 1))
    assert plan.take(ROOM) == [*big[2:4], 15, 19]


def test_readers_overtake_the_replay() -> None:
    cache = NumberCache()
    plan, _ = make(cache, *[1] * 10)
    plan.replay(range(10))
    read(plan, cache, 0, 0, 0)
    assert plan.take(ROOM) == list(range(1, 10))
    assert plan.counters.known_misses == plan.counters.missed == 1


def test_small_chunks_go_many_at_a_time() -> None:
    cache = NumberCache()
    plan, _ = make(cache, *[1] * 200, sizes=dict.fromkeys(range(200), 3000))
    plan.replay(range(200))
    assert len(plan.take(CHUNK)) == MOST_IN_BATCH


def test_what_the_profile_knows_is_not_guessed_about() -> None:
    cache = NumberCache()
    plan, (file, _) = make(cache, 10, 1)
    plan.replay(file[:5])
    bring(plan, cache)
    for position in range(5):
        assert not plan.touched(0, position, position, ()).begins
    assert plan.take(ROOM) == [], "no readahead either"
    assert plan.touched(1, 0, 0, (10,)).begins


def test_a_chunk_that_a_file_holds_twice_is_wanted_once() -> None:
    plan = Plan(NumberTree({0: [5, 5, 5], 1: [6, 6]}), NumberCache().has)
    assert plan.touched(0, 0, 2, (5, 5, 5)).numbers == [5]
    assert plan.hit(1, 0, 1) == [6]
    assert (plan.counters.missed, plan.counters.hits) == (1, 1)


def test_hits_in_short_are_counted_as_at_length() -> None:
    cache = NumberCache()
    plan, _ = make(cache, 4, 4)
    plan.suggest([1])
    bring(plan, cache)
    assert plan.hit(0, 0, 3) == [0, 1, 2, 3]
    assert plan.hit(0, 0, 3) == []
    assert plan.hit(1, 0, 0) == [4]
    counted = plan.counters.as_dict()
    assert (counted["demanded"], counted["hits"], counted["used"]) == (5, 4, 1)


def test_guesses_are_bounded() -> None:
    cache = NumberCache()
    plan, _ = make(cache, MOST_WAITING * 2)
    plan.suggest(range(MOST_WAITING * 2))
    taken: list[int] = []
    while batch := plan.take(ROOM):
        taken += batch
    assert taken == list(range(MOST_WAITING))


def test_every_end_of_a_chunk_is_counted_once() -> None:
    cache = NumberCache()
    plan, _ = make(cache, *[1] * 8)
    plan.suggest(range(6))
    assert plan.take(ROOM) == [0, 1, 2, 3, 4, 5]
    plan.touched(0, 0, 0, (0,))  # late
    plan.touched(1, 0, 0, (1,))  # late, and then it fails
    plan.landed(0, Outcome.BROUGHT)
    plan.landed(1, Outcome.FAILED)
    plan.landed(2, Outcome.BROUGHT)
    plan.landed(3, Outcome.BROUGHT)
    plan.landed(4, Outcome.NEEDLESS)
    plan.touched(2, 0, 0, ())  # used
    plan.touched(4, 0, 0, (4,))  # missed: another reader's
    plan.touched(7, 0, 0, ())  # hit
    plan.touched(7, 0, 0, ())  # not for the first time
    counted = plan.counters.as_dict()
    assert counted == {
        "demanded": 5,
        "hits": 1,
        "used": 1,
        "late": 1,
        "missed": 2,
        "prefetched": 3,
        "wasted": 1,
        "known_misses": 0,
        "prefetched_bytes": 3 * CHUNK,
        "used_bytes": 2 * CHUNK,
        "precision": 0.5,  # (used 1 + late 1) of 3 that came and 1 in flight
        "recall": 0.5,
    }


def test_a_chunk_that_cannot_be_had_is_not_asked_for_again_but_a_postponed_one_is() -> None:
    cache = NumberCache()
    plan, _ = make(cache, 4)
    plan.suggest([1, 2])
    assert plan.take(ROOM) == [1, 2]
    plan.landed(1, Outcome.FAILED)
    plan.landed(2, Outcome.POSTPONED)
    plan.suggest([1])
    assert plan.take(ROOM) == [2]


def test_a_larger_tree_takes_the_place_of_the_old_one() -> None:
    cache = NumberCache()
    plan, _ = make(cache, 2)
    plan.swap(NumberTree({0: [0, 1], 1: [2, 3, 4, 5]}))
    assert plan.touched(1, 0, 1, (2, 3)).numbers == [2, 3]
    assert plan.take(ROOM) == [4, 5]
