"""Records which chunks a mount wants, when each was first wanted.

Role: `prefetcher` tells each chunk once; what comes out is merged into the profile of the flist.  The
recording is of a start: it begins with the first chunk and ends with `LONGEST` seconds or `MOST_ENTRIES`
chunks, so neither a long life nor a walk through the whole tree makes it large.

No threads and no locks: one thread tells and asks.
"""

from __future__ import annotations

import logging
from pathlib import Path

from zerofs.errors import ProfileError, reason_of
from zerofs.flist.load import write_atomically
from zerofs.prefetch.merge import merged
from zerofs.prefetch.profile import (
    MOST_ENTRIES,
    Entry,
    Profile,
    check_fits,
    decode,
    encode,
    read_bounded,
)

log = logging.getLogger(__name__)

LONGEST = 300.0  # seconds


class Recorder:
    """Records for the flist of this content hash.  `path`: its profile, which need not exist.

    `began`: when the recording of another process began that this one goes on with (seconds, of the same clock).
    """

    def __init__(self, content_hash: bytes, chunk_count: int, path: Path, began: float | None = None) -> None:
        self._content_hash = content_hash
        self._chunk_count = chunk_count
        self._path = path
        self._began = began
        self._numbers: list[int] = []
        self._times: list[float] = []
        self._saved = 0  # entries that are in the file
        self._base: Profile | None = None  # what was in the file before this recording
        self._written = b""

    @property
    def unsaved(self) -> bool:
        """Whether something was recorded since it was saved."""
        return len(self._numbers) > self._saved

    def wanted(self, number: int, at: float) -> None:
        """Chunk `number`, which was not told before, was wanted at `at` (seconds, of any clock)."""
        if self._began is None:
            self._began = at
        if at - self._began <= LONGEST and number < self._chunk_count and len(self._numbers) < MOST_ENTRIES:
            self._numbers.append(number)
            self._times.append(at)

    def recording(self) -> Profile:
        """What was recorded so far."""
        began = self._began or 0.0
        since = [max(0, int((at - began) * 1000)) for at in self._times]
        return Profile(self._content_hash, 1, tuple(map(Entry, self._numbers, since)))

    def save(self) -> None:
        """Merge the recording into the file; saved again, the longer one takes the place of the shorter.

        Where another mount has written meanwhile, its file stays: it holds what we had.  Without a place to
        write to nothing is recorded, and nobody suffers.
        """
        if not self.unsaved:
            return
        try:
            found = self._in_file()
            if self._written and found != self._written:
                self._saved = len(self._numbers)
                return
            if not self._written:
                self._base = self._usable(found)
            recording = self.recording()
            profile = recording if self._base is None else merged([self._base, recording])
            data = encode(profile)
            write_atomically(data, self._path)
            self._written = data
        except OSError as error:
            log.info("cannot keep the access profile: %s", reason_of(error))
        self._saved = len(self._numbers)

    def _in_file(self) -> bytes:
        try:
            return read_bounded(self._path)
        except (FileNotFoundError, ProfileError):
            return b""

    def _usable(self, data: bytes) -> Profile | None:
        try:
            profile = decode(data, str(self._path))
            check_fits(profile, self._content_hash, self._chunk_count, str(self._path))
        except ProfileError:
            return None  # whoever replays has warned
        return profile
