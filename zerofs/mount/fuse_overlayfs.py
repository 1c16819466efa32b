"""The union without root: the program ``fuse-overlayfs``, run and supervised.

Role: the same as the kernel's overlayfs, for callers that may not mount one.  The program runs as a child
for as long as the union is mounted and is ended by its process id.  Used by the thread that mounts; no locks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.errors import MountError
from zerofs.mount import mountinfo
from zerofs.mount.unmount import unmount

if TYPE_CHECKING:
    from zerofs.mount.notify import Led, Teller

logger = logging.getLogger(__name__)

_NAME = "fuse-overlayfs"
_FSTYPE = "fuse.fuse-overlayfs"
_START_SECONDS = 20.0
_END_SECONDS = 10.0
_POLL_SECONDS = 0.005


def program() -> str | None:
    """Where the program is, if it is installed."""
    return shutil.which(_NAME)


class FuseOverlay:
    """A union by fuse-overlayfs; mounted when this is made.  Raises MountError where that fails."""

    def __init__(self, lower: Path, upper: Path, work: Path, target: Path) -> None:
        self.target = target
        if ":" in os.fspath(lower):
            raise MountError(f"{_NAME} takes no colon in a path: {lower}", hint="choose another --backend")
        options = f"lowerdir={_escape(lower)},upperdir={_escape(upper)},workdir={_escape(work)}"
        with tempfile.TemporaryFile() as errors:
            self._process: subprocess.Popen[bytes] | _Inherited = subprocess.Popen(
                [program() or _NAME, "-f", "-o", options, os.fspath(target)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # a terminal's Ctrl-C is for the server, which then ends this
            )
            if not self._wait_mounted():
                errors.seek(0)
                said = errors.read(4096).decode(errors="replace").strip().replace("\n", "; ")
                raise MountError(f"{_NAME} cannot mount {target}: {said or 'it does not start'}")

    @classmethod
    def inherited(cls, process: int, target: Path) -> FuseOverlay:
        """A union whose program another process of ours has started."""
        self = cls.__new__(cls)
        self.target = target
        self._process = _Inherited(process)
        return self

    def remembered(self) -> dict[str, int]:
        return {"process": self._process.pid}

    @property
    def process_id(self) -> int:
        """The process that serves the union."""
        return self._process.pid

    def refresh(self, kernel: Teller, names: Sequence[Led] = ()) -> list[bool]:
        """Not possible: the program keeps what it has read of the lower layer."""
        raise MountError(
            f"{_NAME} cannot take up a changed lower layer at {self.target}", hint="unmount and mount again"
        )

    def close(self) -> None:
        if self._is_mounted():
            unmount(self.target)
        self._end()

    def _is_mounted(self) -> bool:
        seen = mountinfo.top(self.target)
        return seen is not None and seen.fstype == _FSTYPE

    def _wait_mounted(self) -> bool:
        end = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            if self._is_mounted():
                return True
            time.sleep(_POLL_SECONDS)
        self._end()
        return False

    def _end(self) -> None:
        """The program ends with its mount; one that does not is told to."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._process.send_signal(number)
            try:
                self._process.wait(_END_SECONDS if number else 1.0)
            except subprocess.TimeoutExpired:
                continue
            return


class _Inherited:
    """A program that is nobody's child any more, with as much of `subprocess.Popen` as is used here."""

    def __init__(self, process: int) -> None:
        self.pid = process
        try:
            self._fd: int | None = os.pidfd_open(process)
        except ProcessLookupError:
            self._fd = None

    def poll(self) -> int | None:
        return 0 if self._fd is None or select.select([self._fd], [], [], 0)[0] else None

    def send_signal(self, number: int) -> None:
        if self._fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def wait(self, timeout: float) -> None:
        if self._fd is not None and not select.select([self._fd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(_NAME, timeout)


def _escape(path: Path) -> str:
    """libfuse parts options by commas; a backslash takes a comma's meaning away."""
    return os.fspath(path).replace("\\", "\\\\").replace(",", "\\,")


def end_orphans(upper: Path) -> None:
    """End the programs of this user that write to `upper` for a server that was killed."""
    wanted = f"upperdir={_escape(upper)},"
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            arguments = os.fsdecode((directory / "cmdline").read_bytes()).split("\0")
            ours = directory.stat().st_uid == os.geteuid()
        except OSError:
            continue  # ended meanwhile
        if ours and Path(arguments[0]).name == _NAME and any(wanted in argument for argument in arguments):
            logger.warning("ending %s (%s), whose server was killed", _NAME, directory.name)
            _end_process(int(directory.name))


def _end_process(process: int) -> None:
    end = time.monotonic() + _END_SECONDS
    try:
        os.kill(process, signal.SIGTERM)
        while time.monotonic() < end:
            os.kill(process, 0)
            time.sleep(_POLL_SECONDS)
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
