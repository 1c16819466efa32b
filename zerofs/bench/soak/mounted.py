"""The mount that a soak reads: started, killed, started again, and never lost by itself."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from zerofs.bench.subjects import READY, program
from zerofs.errors import MountError
from zerofs.mount.unmount import unmount

START_PATIENCE = 30.0  # seconds until a start counts as failed
_END_PATIENCE = 30.0


def supervision() -> bool:
    """Whether this zerofs can hand a live mount to another process."""
    done = subprocess.run([_program("g8ufs"), "--help"], capture_output=True, check=False)
    return b"--supervised" in done.stdout


class Mounted:
    """A mount command in the foreground, and the process that serves.

    Supervised, `kill` leaves the mount in place, and a successor serves it; else the mount is dead until `start`.
    """

    def __init__(self, workdir: Path, options: Sequence[str | os.PathLike[str]], *, supervised: bool) -> None:
        self.target = workdir / "mnt"
        self.target.mkdir()
        self.log = workdir / "mount.log"
        self.supervised = supervised
        self.lost = 0  # ends that nobody asked for, and starts that failed
        self.starts: list[float] = []  # seconds from the command to `mount starts`
        self._command = [_program("g8ufs"), "--ro", *options, *(["--supervised"] if supervised else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Mount; returns after how many seconds it could be used.  Raises MountError."""
        command = ["setpriv", "--pdeathsig", "TERM", "--", *self._command, self.target]
        started = time.monotonic()
        with self.log.open("ab") as log:
            process = self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, process_group=0
            )
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(START_PATIENCE) and process.stdout.readline() == READY
        if not ready:
            self.lost += 1
            self._end(signal.SIGKILL)
            raise MountError(f"the mount did not start: {self.last_words()}", hint="")
        self.starts.append(time.monotonic() - started)
        return self.starts[-1]

    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL whoever serves."""
        if self.supervised:
            for server in self.servers():
                os.kill(server, signal.SIGKILL)
        else:
            self._end(signal.SIGKILL)

    def upgrade(self) -> None:
        """Hand the mount to another process on purpose."""
        done = subprocess.run([_program("zerofs"), "upgrade", self.target], capture_output=True, check=False)
        if done.returncode:
            self.lost += 1

    def ensure(self) -> None:
        """Count a mount that ended by itself, and start it again."""
        if not self.is_up():
            self.lost += 1
            self._end(signal.SIGKILL)
            self.start()

    def servers(self) -> list[int]:
        """The children of the supervisor."""
        return [] if self._process is None else list(_children(self._process.pid))

    def close(self) -> None:
        """Unmount in good order; one that does not end in order is lost."""
        if self._process is not None and self._end(signal.SIGTERM) != 0:
            self.lost += 1
        while unmount(self.target):
            pass

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            status = process.wait(_END_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return status


def _program(name: str) -> str:
    return os.fspath(program(name) or name)


def _children(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:
        return
