"""Whether the pages of LMDB's trees fit together: looked at before a file is opened whose last user was killed.

Place: below `environment`; the walk itself is compiled (`fast/lmdbcheck.pxi`).  LMDB believes what it reads when it
writes: a list of free pages with a flipped bit ends the process by an assertion, and the next one, and the one
after it.  So a file that was left without a goodbye is gone over once, by who opens it alone: the lists of free pages,
and the trees where that takes a moment: where they are small enough, and as far as they are in memory, as a rule all
of what was in use until just now.  A file that was closed in good order is not: its pages would have to come from a
disk, at each first start after a boot, and if LMDB ends the process over one of them, then the next one looks.

Each page is where it says, each node within its page, names are in order and between those above them, what is counted
is there, and no page is part of two things.  Entries themselves have checksums, and of their pages only the headers of
the first are looked at, where they are in memory: when LMDB frees them it goes by those.

Pages are read from the file, not from a map, so that one which the disk cannot give is an error.  Threads: the
caller's.
"""

from __future__ import annotations

from pathlib import Path

from zerofs._fast import find_misfit_in

# Of the trees; those of larger ones are left to LMDB's own checks.  Chunks of 512 KiB have 100 GiB and more in so many,
# and in memory they take some 20 ms.
MOST_PAGES = 8192
MOST_AWAITED = 64  # of them, from the disk


def find_misfit(data: Path) -> str | None:
    """What does not fit together in the file of a cache that nobody has open; None where all does, or there is none."""
    if data.is_symlink() or not data.is_file() or not (size := data.stat().st_size):
        return None
    try:
        with data.open("rb", buffering=0) as file:
            misfit = find_misfit_in(file.fileno(), size, MOST_PAGES, MOST_AWAITED)
    except OSError as error:
        return f"its pages cannot be read: {error.strerror}"
    return None if misfit is None else f"its pages do not fit together: {misfit}"
