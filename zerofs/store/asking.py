"""A batch of chunks as one destination answers it, step by step.

Place: below `router`, which steps through it in its own thread, and `race`, which has helpers do so.  One thread
at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from zerofs.errors import StoreError, StoreRefusedError, StoreUnreachableError
from zerofs.store.base import Found
from zerofs.store.destination import Destination
from zerofs.store.want import Want

Answers = list[tuple[Want, Found]]


class Asking:
    """Asks `destination` for `wants` until `limit`, a value of ``time.monotonic()``."""

    patience: float | None = None  # seconds, see `Store.get_batches`

    def __init__(self, destination: Destination, wants: Sequence[Want], limit: float) -> None:
        self.destination = destination
        self.limit = limit
        self._wants = wants
        self._position = 0  # of the first one without an answer
        self._batches: Generator[Sequence[Found]] | None = None

    @property
    def owed(self) -> Sequence[Want]:
        """What is not answered yet."""
        return self._wants[self._position :]

    def step(self) -> Answers | None:
        """Wait for the next answers, none of them if patience ends; None where each chunk has got its own.

        What the destination cannot give does not stop the others.  The payloads of the last step are gone then.
        """
        if self._position == len(self._wants):
            self._finish()
            return None
        if self._batches is None:
            ids = [want.id for want in self.owed]
            again = sum(self.destination in want.faults for want in self.owed)
            self._batches = self.destination.get_batches(ids, self.limit, self.patience, again=again)
        try:
            found: Sequence[Found] = next(self._batches)
        except (StoreUnreachableError, StoreRefusedError) as fault:
            self._batches = None
            found = [fault] * len(self.owed)
        except StoreError as fault:
            self._batches = None  # the others are asked for anew
            found = [fault]
        answered = self._wants[self._position : self._position + len(found)]
        self._position += len(found)
        return list(zip(answered, found, strict=True))

    def close(self) -> None:
        """Take no more steps."""
        if self._batches is not None:
            self._batches.close()

    def _finish(self) -> None:
        """Let the destination see that all is answered, so that its connection can be used again."""
        try:
            if self._batches is not None:
                next(self._batches, None)
        except StoreError:
            return  # whatever it is, it concerns no chunk
