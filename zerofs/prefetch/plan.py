"""What to fetch next, and what became of it.

Role: the policy of prefetch, between what readers want (`touched`) and what the background fetches (`take`, `landed`).
First comes what a stream of reads is about to reach, then what was guessed from the files in use, then the replay
of the profile.  Nothing is asked for twice, nor what is in the cache or was wanted already.  Where the profile knows a
chunk it also knows what follows, so guessing begins where the profile ends.

Chunks are named by their numbers in the index, one byte of state each.  No threads, no locks, no clock, no store:
whoever calls guards it, and a test can play both sides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from zerofs.prefetch.counters import Counters
from zerofs.prefetch.readahead import Readahead
from zerofs.prefetch.replay import Replay

MOST_IN_BATCH = 64  # chunks
MOST_WAITING = 4096  # chunks that were guessed and not taken; later guesses are dropped

_WANTED = 1  # by a reader
_ASKED = 2  # in flight
_BROUGHT = 4
_KNOWN = 8  # to the profile
_SETTLED = 16  # in the cache when it was looked for, or cannot be had


class Tree(Protocol):
    """What a plan needs of `zerofs._fast.IndexMap`; see there."""

    @property
    def chunk_count(self) -> int: ...
    def refs(self, row: int, first: int = 0, most: int = 0xFFFFFFFF) -> list[int]: ...
    def file_length(self, row: int) -> int: ...
    def chunk_size(self, number: int) -> int: ...


class Outcome(Enum):
    """How a chunk that was taken ended."""

    BROUGHT = "it is here"
    NEEDLESS = "somebody else has it or waits for it"
    FAILED = "it cannot be had"
    POSTPONED = "nothing can be had at the moment"


class Touched(NamedTuple):
    """What is new of a touch."""

    numbers: list[int]  # chunks that were wanted for the first time
    begins: bool  # the start of a file is among them, and the profile does not know it
    is_cold: bool  # some were not in the cache, or would not be without prefetch


class Plan:
    """For the chunks of `tree`; `present` says which of some chunks are in the cache."""

    def __init__(self, tree: Tree, present: Callable[[Sequence[int]], Sequence[bool]]) -> None:
        self.counters = Counters()
        self._tree = tree
        self._present = present
        self._states = bytearray(tree.chunk_count)
        self._readahead = Readahead()
        self._replay: Replay | None = None
        self._again: deque[int] = deque()  # were chosen and did not fit
        self._soon: deque[int] = deque()  # the next of streams
        self._guessed: deque[int] = deque()

    @property
    def left(self) -> bool:
        """Whether there may be something to take."""
        return bool(self._again or self._soon or self._guessed or (self._replay and self._replay.left))

    def replay(self, numbers: Sequence[int]) -> None:
        """Bring these chunks of a profile, in this order."""
        for number in numbers:
            self._states[number] |= _KNOWN
        self._replay = Replay(numbers, self._present)

    def suggest(self, numbers: Iterable[int]) -> None:
        """These may be wanted next, the likeliest first."""
        for number in numbers:
            if len(self._guessed) < MOST_WAITING and self._is_open(number):
                self._guessed.append(number)

    def drop(self) -> None:
        """Forget what is waiting: it can not be kept."""
        self._again.clear()
        self._soon.clear()
        self._guessed.clear()
        self._replay = None

    def swap(self, tree: Tree) -> None:
        """Go on with a tree that knows all rows and chunks of the one before, and more."""
        self._tree = tree
        self._states.extend(bytes(tree.chunk_count - len(self._states)))

    # -- readers -------------------------------------------------------------------------------

    def touched(self, row: int, first: int, last: int, missing: Sequence[int]) -> Touched:
        """Readers want positions `first` to `last` of the file `row`; `missing` were not in the cache."""
        numbers = self._tree.refs(row, first, last - first + 1)
        new = [number for number in dict.fromkeys(numbers) if not self._states[number] & _WANTED]
        is_cold = bool(missing) or any(self._states[number] & (_BROUGHT | _ASKED) for number in new)
        for number in new:
            self._count_wanted(number, number in missing)
        if self._replay is not None and missing:
            self._replay.missed()
        is_known = all(self._states[number] & _KNOWN for number in numbers)
        if not is_known:
            ahead = self._readahead.touched(row, first, last, self._tree.file_length(row))
            if ahead:
                following = self._tree.refs(row, ahead.start, len(ahead))
                self._soon.extend(number for number in following if self._is_open(number))
        return Touched(new, first == 0 and bool(new) and not is_known, is_cold)

    def hit(self, row: int, first: int, last: int) -> list[int]:
        """The same for what was in the cache, in short: no stream is looked for.  The new chunks."""
        states = self._states
        new = []
        for number in self._tree.refs(row, first, last - first + 1):
            state = states[number]
            if state & (_ASKED | _BROUGHT):
                new += self.touched(row, first, last, ()).numbers
                break
            if not state & _WANTED:
                states[number] = state | _WANTED
                self.counters.demanded += 1
                self.counters.hits += 1
                new.append(number)
        return new

    def _count_wanted(self, number: int, is_missing: bool) -> None:
        state = self._states[number]
        self._states[number] = state | _WANTED
        counters = self.counters
        counters.demanded += 1
        if state & _BROUGHT:
            counters.used += 1
            counters.used_bytes += self._tree.chunk_size(number)
        elif state & _ASKED:
            counters.late += 1
        elif is_missing:
            counters.missed += 1
            counters.known_misses += bool(state & _KNOWN)
        else:
            counters.hits += 1

    # -- the background ------------------------------------------------------------------------

    def take(self, room: int) -> list[int]:
        """Chunks to be fetched now: up to `room` plain bytes, but at least one where any is left."""
        chosen: list[int] = []
        size = 0
        while candidates := self._candidates(MOST_IN_BATCH - len(chosen)):
            there = self._present(candidates)
            for position, number in enumerate(candidates):
                if there[position]:
                    self._states[number] |= _SETTLED
                    continue
                size += self._tree.chunk_size(number)
                if chosen and size > room:
                    self._again.extend(candidates[position:])
                    return chosen
                self.claim(number)
                chosen.append(number)
        return chosen

    def claim(self, number: int) -> bool:
        """Mark a chunk as asked for; False where it is wanted, asked for, or here already."""
        if not self._is_open(number):
            return False
        self._states[number] |= _ASKED
        self.counters.in_flight += 1
        return True

    def landed(self, number: int, outcome: Outcome) -> None:
        """A chunk that was taken or claimed has come to its end."""
        size = (
            self._tree.chunk_size(number) if outcome is Outcome.BROUGHT else 0
        )  # before anything is changed
        counters = self.counters
        state = self._states[number] & ~_ASKED
        counters.in_flight -= 1
        if outcome is Outcome.BROUGHT:
            counters.prefetched += 1
            counters.prefetched_bytes += size
            state |= _BROUGHT
            if state & _WANTED:
                counters.landed_late += 1
                counters.used_bytes += size
        elif state & _WANTED:  # it was counted as late
            counters.late -= 1
            counters.missed += 1
        elif outcome is Outcome.FAILED:
            state |= _SETTLED
        elif outcome is Outcome.POSTPONED:
            self._again.append(number)
        self._states[number] = state

    def _is_open(self, number: int) -> bool:
        """Whether nobody has wanted, asked for or found it."""
        return not self._states[number] & (_WANTED | _ASKED | _BROUGHT | _SETTLED)

    def _candidates(self, most: int) -> list[int]:
        """Up to `most` different chunks to be looked at, the most urgent first."""
        chosen: dict[int, None] = {}
        for queue in (self._soon, self._again, self._guessed):
            while queue and len(chosen) < most:
                number = queue.popleft()
                if self._is_open(number):
                    chosen[number] = None
        while self._replay is not None and len(chosen) < most:
            following = self._replay.next()
            if following is None:
                break
            if self._is_open(following):
                chosen[following] = None
        return list(chosen)
