"""Readahead inside a file: streams of sequential reads, and how far ahead of each to fetch.

Role: `plan` tells every position of a file that is wanted, and gets the positions that come next.  A
position is that of a chunk.  A stream begins at its second position in a row, or with a read from the start of the
file that goes beyond one chunk; a read in the middle begins none.  The window of a stream doubles with each step up to
`MOST_WINDOW`; reads elsewhere in the file are candidates of their own and push out the stream that was quiet for
longest, so random access ends streams and never feeds them.

No threads and no locks.
"""

from __future__ import annotations

from collections import OrderedDict

FIRST_WINDOW = 2  # chunks
MOST_WINDOW = 16  # chunks: 8 MiB
STREAMS = 4  # in one file
MOST_FILES = 256  # that have streams


class Stream:
    """Reads that follow each other.  Positions count chunks of a file."""

    __slots__ = ("ahead", "next", "window")

    def __init__(self, following: int) -> None:
        self.next = following
        self.ahead = following  # everything before it was asked for
        self.window = 0  # a candidate

    def step(self, following: int, count: int) -> range:
        """The stream is at `following` of `count` now; the positions to be fetched."""
        self.next = following
        self.window = min(MOST_WINDOW, self.window * 2 or FIRST_WINDOW)
        start = max(self.ahead, following)
        end = min(count, following + self.window)
        self.ahead = max(start, end)
        return range(start, self.ahead)


class Readahead:
    """The streams of all files, by row; of the files touched last."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, list[Stream]] = OrderedDict()  # streams, the quietest first

    def touched(self, row: int, first: int, last: int, count: int) -> range:
        """Positions `first` to `last` of the `count` of the file `row` are wanted; those to fetch now."""
        if count < 2:
            return range(0)
        streams = self._files.pop(row, [])
        self._files[row] = streams
        if len(self._files) > MOST_FILES:
            self._files.popitem(last=False)
        for stream in streams:
            if first <= stream.next <= last:
                streams.remove(stream)
                streams.append(stream)
                return stream.step(last + 1, count)
            if stream.window and stream.next - stream.window <= first and last < stream.next:
                return range(0)  # a part of what the stream has been through
        stream = Stream(last + 1)
        streams.append(stream)
        if len(streams) > STREAMS:
            del streams[0]
        return stream.step(last + 1, count) if first == 0 < last else range(0)
