"""The cache under a soak: watched while mounts use it, and proved when they have.

Watching takes no part in it: the length of its file is what the file system says, and what is in use is what the
mount itself counts (`zerofs stats`).  One thread, started by `begin` and ended by `end`; nobody else reads its
figures before.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from zerofs.bench.soak.mounted import zerofs_program
from zerofs.errors import ZerofsError
from zerofs.mount import inquiry

LOOK = 0.01  # seconds between looks at the file
ASK = 0.5  # seconds between questions to the mount
_PATIENCE = 120.0  # seconds for fsck


class Watched(NamedTuple):
    """What was seen of the cache.  Sizes are bytes."""

    bound: int  # 0: nobody could be asked
    file: int  # the most that the file had
    used: int  # the most that entries and trees took
    evicted: int  # entries, as far as the mount was asked before its process ended

    @property
    def beyond(self) -> int:
        """How far it was over its bound."""
        return max(0, max(self.file, self.used) - self.bound) if self.bound else 0


UNSEEN = Watched(0, 0, 0, 0)


class CacheWatch:
    """Looks at the cache in `directory`, which the mount at `target` uses."""

    def __init__(self, directory: Path, target: Path) -> None:
        self._data = directory / "data.mdb"
        self._target = target
        self._bound = self._file = self._used = 0
        self._evicted: dict[int, int] = {}  # by the process that counts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cache-watch", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> Watched:
        """Stop looking; what was seen."""
        self._stop.set()
        self._thread.join()
        self._ask()
        return Watched(self._bound, self._file, self._used, sum(self._evicted.values()))

    def _work(self) -> None:
        due = 0.0
        while not self._stop.wait(LOOK):
            with contextlib.suppress(OSError):  # set aside, a new one comes
                self._file = max(self._file, self._data.stat().st_size)
            if time.monotonic() >= due:
                self._ask()
                due = time.monotonic() + ASK

    def _ask(self) -> None:
        try:
            said = inquiry.ask(inquiry.find(self._target))
        except (ZerofsError, OSError):  # nobody serves at this moment
            return
        cache = said["cache"]
        self._bound = max(self._bound, cache["size_limit"])
        self._used = max(self._used, cache["used"])
        self._evicted[said["mount"]["server"]] = cache["evicted"]


def fsck(directory: Path, *, repair: bool = False) -> list[str]:
    """What `zerofs fsck` finds wrong in the cache, a line each."""
    command = [zerofs_program(), "fsck", "--json", "--cache", os.fspath(directory)]
    try:
        done = subprocess.run(
            [*command, *(["--repair"] if repair else [])], capture_output=True, timeout=_PATIENCE, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return [f"fsck did not end as it should: {error}"]
    named = [f"{name}: damaged" for name in found["damaged"]]
    if found["replaced"]:
        named.append("data.mdb: set aside")
    if done.returncode and not named:
        named.append(f"fsck ended with status {done.returncode}")
    return named
