"""Replays a profile: its chunks in their order, as long as there is something to bring.

Role: `plan` asks it for what comes next when nothing more urgent is to be fetched.  A mount whose cache is warm must
not pay for a profile, so a replay begins by looking for a few of its chunks only; where all of them are in the cache
it rests until a reader misses one.

No threads and no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

SAMPLE = 64  # chunks


class Replay:
    """`numbers`: chunks in the order of the profile.  `present` says which of some are in the cache."""

    def __init__(self, numbers: Sequence[int], present: Callable[[Sequence[int]], Sequence[bool]]) -> None:
        self._numbers = numbers
        self._position = 0
        step = max(1, len(numbers) // SAMPLE)
        self._resting = all(present(numbers[::step]))

    @property
    def left(self) -> bool:
        """Whether there is something to replay now."""
        return not self._resting and self._position < len(self._numbers)

    def missed(self) -> None:
        """A reader wanted what was not in the cache."""
        self._resting = False

    def next(self) -> int | None:
        """The next chunk, whatever became of it meanwhile; None at the end."""
        if not self.left:
            return None
        self._position += 1
        return self._numbers[self._position - 1]
