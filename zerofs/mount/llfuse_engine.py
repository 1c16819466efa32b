"""The engine that runs everywhere: llfuse over libfuse 2.

Role: has llfuse answer on the channel, by the operations of `zerofs._fast.Operations`.

Threads: `start` runs llfuse's loop in a thread of its own, which in turn starts `WORKERS` threads that take
requests from /dev/fuse.  llfuse's global lock serialises the handlers; a read that waits for a store lets go
of it.  A waiting read does occupy its worker, so there are more workers than the kernel has background
requests (12): readahead alone can never keep a `stat` waiting.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs._fast import IndexMap, Operations
from zerofs.errors import ZerofsError
from zerofs.flist.model import Chunk
from zerofs.mount.channel import Channel
from zerofs.mount.engine import ReadCounts, Served

if TYPE_CHECKING:
    from zerofs._fast import Touch
    from zerofs.flist.index import Index

log = logging.getLogger(__name__)

WORKERS = 16
_END_TIMEOUT = 1.0  # seconds; the workers end at once unless the mount was busy and is only detached


class Ordinary(logging.Filter):
    """Drops what llfuse takes for errors, and is the way a session goes on or ends."""

    _GONE = tuple(map(os.strerror, (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED)))

    def filter(self, record: logging.LogRecord) -> bool:
        return not (self._answers_nobody(record) or self._says_an_end(record))

    def _answers_nobody(self, record: logging.LogRecord) -> bool:
        """Nobody waits for the answer any more: its reader was killed, or the mount is gone."""
        about_answer = str(record.msg).endswith("fuse_reply_* failed with %s")
        return about_answer and isinstance(record.args, tuple) and record.args[0] in self._GONE

    def _says_an_end(self, record: logging.LogRecord) -> bool:
        """A worker was handed a request at the moment in which the last user left, and so the connection ended.

        The kernel says ECONNABORTED to that one, and ENODEV to all others, which llfuse knows.
        """
        return str(record.msg).startswith("FUSE worker thread") and _is_abort(sys.exception())


def _is_abort(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ECONNABORTED


class LlfuseEngine:
    """One FUSE mount; see `zerofs.mount.engine`."""

    name = "llfuse"

    def __init__(self, served: Served, mountpoint: Path, options: set[str]) -> None:
        import llfuse

        logging.getLogger("llfuse").addFilter(Ordinary())
        self._served = served
        self._operations = Operations(
            served.tree.map,
            cache=served.cache,
            fetch=self._fetch,
            report=served.failures.report,
            binding=llfuse,
            total_size=served.tree.total_size,
            observer=served.observer,
        )
        self.lingering = self._operations.lingering
        self._channel = Channel(self._operations, mountpoint, options)
        self.notifier = self._channel.notifier
        self.device = self._channel.device
        self.ended = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="llfuse", daemon=True)
        self._thread.start()
        self._channel.raise_readahead()

    def _serve(self) -> None:
        import llfuse

        try:
            llfuse.main(workers=WORKERS, handle_signals=False)
        except BaseException as error:
            if _is_abort(error):
                log.info("the FUSE connection was aborted")
            else:
                log.exception("the FUSE session ended by an error")
        finally:
            os.eventfd_write(self.ended, 1)

    def _fetch(self, index: IndexMap, number: int) -> bytes:
        try:
            return self._served.fetcher.read(Chunk(*index.chunk(number)))
        except ZerofsError as error:
            self._served.failures.report(error)
            raise

    def swap(self, index: Index, replaced: Iterable[tuple[tuple[int, bytes], int]]) -> None:
        import llfuse

        with llfuse.lock:  # keeps every handler out
            self._operations.swap(index.map, index.total_size, replaced)

    def reads(self) -> ReadCounts:
        return ReadCounts(*self._operations.reads())

    def take_touches(self) -> list[Touch]:
        return []  # each is told at once

    def unmount(self) -> None:
        self._channel.unmount()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(_END_TIMEOUT)
            if self._is_served():
                logging.getLogger("llfuse").disabled = True  # it cannot know that this end is meant
                self._channel.cut(ended=lambda: not self._is_served())
        self._channel.close()

    def _is_served(self) -> bool:
        return self._thread is not None and self._thread.is_alive()
