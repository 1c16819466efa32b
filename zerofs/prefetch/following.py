"""Follows files that were opened to what they are likely to need: the thread of the guesses.

Role: `prefetcher` tells which file has been begun; `zerofs.prefetch.guess` says what is worth fetching then, and may
want to read parts of files for that (an ELF header, the cache of the dynamic linker), which this fetches.

Threads: whoever tells; one that guesses and may wait for a store, started with the first file.  It sleeps when
there is none.  `_changed` guards the queue and is not held while anything is guessed or waited for.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from zerofs.errors import ZerofsError

if TYPE_CHECKING:
    from zerofs.fetch.flight import Done
    from zerofs.flist.index import Index

log = logging.getLogger(__name__)

MOST_BEGUN = 1024  # files that wait; more are not followed
PATIENCE = 10.0  # seconds for a chunk that a guess needs


class Guesser(Protocol):
    """See `zerofs.prefetch.guess.guesses`."""

    def steps(self, row: int) -> Iterable[Sequence[int]]: ...


class Following:
    """Hands what follows the files of `index` to `suggest`.  `bytes_of`: asks for a chunk by its number."""

    def __init__(
        self,
        index: Index,
        bytes_of: Callable[[int, Done], None],
        suggest: Callable[[Sequence[int]], None],
        make: Callable[[Index, Callable[[int, int, int], bytes | None]], Guesser] | None = None,
    ) -> None:
        self._index = index
        self._tree = index  # what guesses are made from, for good
        self._bytes_of = bytes_of
        self._suggest = suggest
        self._make = make or _make_guesser
        self._begun: deque[int] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def begun(self, row: int) -> None:
        """The file `row` is being read from its start."""
        if row >= len(self._tree):
            return  # it came with a swap
        with self._changed:
            if self._closing or len(self._begun) >= MOST_BEGUN:
                return
            self._begun.append(row)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prefetch-guess", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def swap(self, index: Index) -> None:
        """Files of before the swap keep their rows; what is new is not followed."""
        self._index = index

    def close(self, patience: float) -> None:
        """End the thread, waiting for it up to `patience` seconds."""
        with self._changed:
            self._closing = True
            self._begun.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(patience)

    def _run(self) -> None:
        guesser = self._make(self._tree, self._read)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._begun or self._closing)
                if self._closing:
                    return
                row = self._begun.popleft()
            try:
                for numbers in guesser.steps(row):
                    self._suggest(numbers)
            except Exception:
                log.exception("guessing what follows a file; nothing is guessed any more")
                return

    def _read(self, row: int, offset: int, size: int) -> bytes | None:
        """`size` bytes of the file `row` from `offset` on, fewer at its end; None where they cannot be had."""
        node = self._index.node(row)
        end = min(offset + size, node.size)
        if offset >= end or not node.block_size:
            return b""
        first = offset // node.block_size
        numbers = self._index.map.refs(row, first, (end - 1) // node.block_size - first + 1)
        pieces = []
        for number in numbers:
            plain = self._chunk(number)
            if plain is None:
                return None
            pieces.append(plain)
        start = offset - first * node.block_size
        return b"".join(pieces)[start : start + end - offset]

    def _chunk(self, number: int) -> bytes | None:
        found: list[bytes | None] = []

        def done(plain: bytes | None, error: ZerofsError | None) -> None:
            with self._changed:
                found.append(plain)
                self._changed.notify_all()

        self._bytes_of(number, done)
        with self._changed:
            self._changed.wait_for(lambda: found or self._closing, PATIENCE)
        return found[0] if found else None


def _make_guesser(index: Index, read: Callable[[int, int, int], bytes | None]) -> Guesser:
    from zerofs.prefetch.guess.guesses import Guesses

    return Guesses(index, read)
