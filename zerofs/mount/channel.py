"""The FUSE channel: mounted through llfuse, whoever answers on it, and taken down again.

Role: below both engines.  llfuse keeps one session a process, as module state, so a process has one channel.
Without root, libfuse has the set-user-id ``fusermount`` do the mounting.  A process that takes a mount over has the
channel from its supervisor, without llfuse (`Channel.inherited`).  Main thread; no locks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from zerofs.errors import MountError
from zerofs.mount import mountinfo, notify
from zerofs.mount._linux import tgkill
from zerofs.mount.unmount import unmount

log = logging.getLogger(__name__)

_CUT_TIMEOUT = 10.0  # seconds; only a thread that the kernel lets nobody interrupt takes longer
_CUT_PAUSE = 0.005  # seconds between two interruptions: a thread may have been about to read
READAHEAD_KIB = 1024  # two chunks ahead; the kernel's default of 128 KiB caps sequential reads


class Channel:
    """A mounted FUSE channel on which nothing has been answered yet, unless it is inherited."""

    _is_ours = True  # to be closed by llfuse

    def __init__(
        self, operations: object, mountpoint: Path, options: set[str], *, succeeded: bool = False
    ) -> None:
        """Mount.  `operations` are what llfuse would call; raises MountError where the host does not allow it.

        `succeeded`: another process goes on with the mount when this one dies.
        """
        import llfuse

        self.mountpoint = mountpoint
        _check_device()
        before = notify.channels()
        with _captured_stderr() as captured:
            try:
                llfuse.init(operations, str(mountpoint), options)
                mounted = True
            except RuntimeError:
                mounted = False  # its text is of no use: libfuse has printed why
        if not mounted:
            reason = captured[0] if captured else "libfuse gives no reason"
            raise MountError(f"cannot mount at {mountpoint}: {reason}", hint=_hint(reason))
        (descriptor,) = notify.channels() - before
        self._set_up(descriptor, mountinfo.top(mountpoint), succeeded=succeeded)

    @classmethod
    def inherited(cls, descriptor: int, mountpoint: Path, mount_id: int | None) -> Channel:
        """The channel of a process that this one takes over from."""
        self = cls.__new__(cls)
        self._is_ours = False
        self.mountpoint = mountpoint
        mount = next((mount for mount in mountinfo.read() if mount.id == mount_id), None)
        self._set_up(descriptor, mount, succeeded=True)
        return self

    def _set_up(self, descriptor: int, mount: mountinfo.Mount | None, *, succeeded: bool) -> None:
        # `cut` interrupts threads by it, and llfuse ends its workers so; without a handler it would end the process
        signal.signal(signal.SIGUSR1, lambda *_: None)
        self._mount = mount
        self.device = "" if mount is None else mount.device  # "major:minor", as the mount table says
        self.descriptor = descriptor
        self.notifier = notify.Notifier(descriptor, self.device, self.mountpoint, succeeded=succeeded)

    @property
    def mount_id(self) -> int | None:
        """The mount's number in the mount table; None where it has left that."""
        return None if self._mount is None else self._mount.id

    def raise_readahead(self) -> None:
        """Have the kernel read further ahead, where this process may tell it to."""
        if self._mount is None:
            return
        try:
            Path(f"/sys/class/bdi/{self._mount.device}/read_ahead_kb").write_text(str(READAHEAD_KIB))
        except OSError as error:
            log.debug("readahead stays at the kernel's default: %s", error)

    def unmount(self) -> None:
        """Take the mount down, detached where it is busy; nothing where there is none."""
        seen = mountinfo.top(self.mountpoint)
        if self._mount is not None and seen is not None and seen.id == self._mount.id:
            unmount(self.mountpoint)
        elif self._mount in mountinfo.read():
            log.warning("%s: something is mounted over the flist, which stays", self.mountpoint)

    def cut(self, *, ended: Callable[[], bool]) -> None:
        """End the session of a detached mount that still has users, and wait until `ended`.

        The descriptor gets another file, and every thread that waits in the old one is interrupted: with the
        last of them the kernel ends the connection, and its users are told ENOTCONN.

        Raises MountError where a thread cannot be interrupted, as it waits for a disk that does not answer.
        What such a thread works with has to stay; the process ends when the kernel lets go of it.
        """
        log.info("%s still has users, who lose it now", self.mountpoint)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, self.descriptor, inheritable=False)
        os.close(nothing)
        with _captured_stderr():  # of what libfuse prints about an end that it does not know
            limit = time.monotonic() + _CUT_TIMEOUT
            while not (over := ended()) and time.monotonic() < limit:
                _interrupt_other_threads()
                time.sleep(_CUT_PAUSE)
        if not over:
            raise MountError("a thread that serves it waits for a disk, and is left behind")

    def close(self) -> None:
        """End the session; nobody may use the descriptor any more."""
        if self._is_ours:
            import llfuse

            llfuse.close(unmount=False)
        else:
            os.close(self.descriptor)


def _hint(reason: str) -> str:
    if "not empty" in reason:
        return "choose an empty directory"
    return "check the permissions, and that fusermount is installed where you are not root"


def interrupt(threads: Iterable[int]) -> None:
    """Have the system calls of these threads of this process end with EINTR."""
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            tgkill(thread, signal.SIGUSR1)


def _interrupt_other_threads() -> None:
    """Have their system calls end with EINTR; Python's own are resumed, and so are llfuse's and libfuse's."""
    threads = {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
    interrupt(threads - {threading.get_native_id()})


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
