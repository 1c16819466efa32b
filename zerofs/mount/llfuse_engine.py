"""The engine that runs everywhere: llfuse over libfuse 2.

Role: puts the operations of `zerofs._fast.Operations` behind a mount point.  llfuse keeps one session a
process, as module state, so a process has one engine.

Threads: `start` runs llfuse's loop in a thread of its own, which in turn starts `WORKERS` threads that take
requests from /dev/fuse.  llfuse's global lock serialises the handlers; a read that waits for a store lets go
of it.  A waiting read does occupy its worker, so there are more workers than the kernel has background
requests (12): readahead alone can never keep a `stat` waiting.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.errors import MountError
from zerofs.mount import mountinfo, notify
from zerofs.mount.unmount import unmount

if TYPE_CHECKING:
    from zerofs._fast import Operations

log = logging.getLogger(__name__)

WORKERS = 16
READAHEAD_KIB = 1024  # two chunks ahead; the kernel's default of 128 KiB caps sequential reads
_END_TIMEOUT = 1.0  # seconds; the workers end at once unless the mount was busy and is only detached


class LlfuseEngine:
    """One FUSE mount.  Use: `mount`, `start`, `unmount`, `close`; the order is the caller's duty."""

    def __init__(self, operations: Operations, mountpoint: Path, options: set[str]) -> None:
        self._operations = operations
        self.mountpoint = mountpoint
        self._options = options
        self._thread: threading.Thread | None = None
        self._initialised = False
        self.ended = os.eventfd(0, os.EFD_CLOEXEC)  # readable once no requests are taken any more
        self._mount: mountinfo.Mount | None = None

    def mount(self) -> None:
        """Mount.  Raises MountError where the host does not allow it."""
        import llfuse

        _check_device()
        before = notify.channels()
        with _captured_stderr() as captured:
            try:
                llfuse.init(self._operations, str(self.mountpoint), self._options)
                self._initialised = True
            except RuntimeError:
                pass  # its text is of no use: libfuse has printed why
        if not self._initialised:
            reason = captured[0] if captured else "libfuse gives no reason"
            raise MountError(
                f"cannot mount at {self.mountpoint}: {reason}",
                hint="check the permissions, and that fusermount is installed where you are not root",
            )
        self._mount = mountinfo.top(self.mountpoint)
        (channel,) = notify.channels() - before
        self.notifier = notify.Notifier(channel)

    def start(self) -> None:
        """Serve requests from now on; the mount can be used when this returns."""
        # llfuse ends its workers with SIGUSR1, which without a handler would end the process
        signal.signal(signal.SIGUSR1, lambda *_: None)
        self._thread = threading.Thread(target=self._serve, name="llfuse", daemon=True)
        self._thread.start()
        if self._mount is not None:
            _raise_readahead(self._mount.device)

    def _serve(self) -> None:
        import llfuse

        try:
            llfuse.main(workers=WORKERS, handle_signals=False)
        except BaseException:
            log.exception("the FUSE session ended by an error")
        finally:
            os.eventfd_write(self.ended, 1)

    def swap_lock(self) -> contextlib.AbstractContextManager[object]:
        """Keeps every handler out while it is held."""
        import llfuse

        lock: contextlib.AbstractContextManager[object] = llfuse.lock
        return lock

    def unmount(self) -> None:
        """Take the mount down, detached where it is busy; nothing where there is none."""
        if not self._initialised:
            return
        seen = mountinfo.top(self.mountpoint)
        if self._mount is not None and seen is not None and seen.id == self._mount.id:
            unmount(self.mountpoint)
        elif self._mount in mountinfo.read():
            log.warning("%s: something is mounted over the flist, which stays", self.mountpoint)

    def close(self) -> None:
        """End the session of an unmounted file system; reads that wait should have been ended by now."""
        import llfuse

        if not self._initialised:
            return
        if self._thread is not None:
            self._thread.join(_END_TIMEOUT)
            if self._thread.is_alive():
                log.info("%s still has users, who lose it now", self.mountpoint)
                return  # the session still runs: tearing it down under its workers would crash
        llfuse.close(unmount=False)


def _check_device() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise MountError(
            f"cannot open /dev/fuse: {error.strerror}",
            hint="load the module fuse, and give this user (or container) access to the device",
        ) from error


@contextlib.contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """What libfuse prints while the block runs, as lines: it has no other way to give a reason."""
    lines: list[str] = []
    saved = os.dup(2)
    captured = os.memfd_create("stderr", os.MFD_CLOEXEC)
    try:
        os.dup2(captured, 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            text = os.pread(captured, 4096, 0).decode("utf-8", "replace")
            lines.extend(line.removeprefix("fuse: ").strip() for line in text.splitlines() if line.strip())
    finally:
        os.close(captured)
        os.close(saved)


def _raise_readahead(device: str) -> None:
    bdi = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
    try:
        bdi.write_text(str(READAHEAD_KIB))
    except OSError as error:
        log.debug("readahead stays at the kernel's default: %s", error)
