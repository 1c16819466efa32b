"""The mount that a soak reads: started, killed, served again, and never lost by itself.

A supervised mount stays in place when its server is killed; without a supervisor it is dead until it is
mounted anew.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

from zerofs.bench.subjects import READY, program
from zerofs.errors import MountError
from zerofs.mount.service import LAYERED
from zerofs.mount.unmount import unmount

START_PATIENCE = 30.0  # seconds until a start counts as failed
_END_PATIENCE = 30.0
_SERVICE = 0.6  # seconds between two deaths: the supervisor waits before it replaces one that served for less


def supervision() -> bool:
    """Whether this zerofs can hand a live mount to another process."""
    done = subprocess.run([_program("g8ufs"), "--help"], capture_output=True, check=False)
    return b"--supervised" in done.stdout


class Mounted:
    """A mount command in the foreground, and the process that serves: as root below a union, else alone.

    `layers`: flists that are laid over the mounted one in turn, one with each `swap`.
    """

    def __init__(
        self,
        workdir: Path,
        options: Sequence[str | os.PathLike[str]],
        layers: Sequence[Path],
        *,
        supervised: bool,
    ) -> None:
        self.target, self._backend = workdir / "mnt", workdir / "backend"
        self.target.mkdir()
        union = os.geteuid() == 0
        self._lower = self._backend / "ro" if union else self.target  # who serves it answers to statfs there
        self._layers = cycle(layers)
        self.log = workdir / "mount.log"
        self.supervised = supervised
        self.lost = 0  # ends that nobody asked for, and starts that failed
        self.starts: list[
            float
        ] = []  # seconds from the command, or the death of a server, until the mount serves
        self._served = 0.0  # time.monotonic(): since when
        self._command = [_program("g8ufs"), "--backend", os.fspath(self._backend), *options]
        self._command += ["--ro"] * (not union) + ["--supervised"] * supervised
        self._upgrade = [zerofs_program(), "upgrade", os.fspath(self.target)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Mount, and wait until that can be used.  Raises MountError."""
        command = ["setpriv", "--pdeathsig", "TERM", "--", *self._command, self.target]
        started = time.monotonic()
        with self.log.open("ab") as log:
            process = self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(START_PATIENCE) and process.stdout.readline() == READY
        if not ready:
            self.lost += 1
            self._end(signal.SIGKILL)
            raise MountError(f"the mount did not start: {self.last_words()}", hint="")
        self._serves(started)

    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self, meanwhile: Callable[[], object] | None = None) -> None:
        """SIGKILL whoever serves, and wait until somebody serves again; `meanwhile` is done while nobody does.

        Raises MountError where nobody will.
        """
        if self.supervised:
            self._await_service()
            self._serves(self._kill_servers(meanwhile))
        else:
            self._end(signal.SIGKILL)
            if meanwhile is not None:
                meanwhile()
            self.start()

    def kill_in_takeover(self, after: float) -> None:
        """SIGKILL old and new so many seconds after another process was asked for, with whatever success."""
        self._await_service()
        with subprocess.Popen(self._upgrade, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            time.sleep(after)
            self._serves(self._kill_servers(None))

    def _await_service(self) -> None:
        time.sleep(max(0.0, self._served + _SERVICE - time.monotonic()))

    def _kill_servers(self, meanwhile: Callable[[], object] | None) -> float:
        """Returns at what time nothing kept a successor from being started, when there is one that serves."""
        assert self._process is not None
        if meanwhile is not None:  # the supervisor would start the next one at once
            self._process.send_signal(signal.SIGSTOP)
        killed = time.monotonic()
        for server in self.servers():
            _kill(server)
        if meanwhile is not None:
            try:
                meanwhile()
            finally:
                killed = time.monotonic()
                self._process.send_signal(signal.SIGCONT)
        try:  # statfs is answered by whoever serves, never by the kernel; a process of its own may hang
            subprocess.run(
                ["stat", "-f", self._lower], stdout=subprocess.DEVNULL, check=True, timeout=START_PATIENCE
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            self.lost += 1
            raise MountError(f"nobody serves any more: {self.last_words()}", hint="") from None
        return killed

    def _serves(self, since: float) -> None:
        self._served = time.monotonic()
        self.starts.append(self._served - since)

    def upgrade(self) -> None:
        """Hand the mount to another process on purpose."""
        if subprocess.run(self._upgrade, capture_output=True, check=False).returncode:
            self.lost += 1

    def swap(self) -> None:
        """Begin to lay the next flist over the mounted one, live."""
        (self._backend / LAYERED).write_text(os.fspath(next(self._layers)))
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

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


def _kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead; it may be nobody's child here."""
    try:
        end = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(end, signal.SIGKILL)
        with selectors.DefaultSelector() as selector:
            selector.register(end, selectors.EVENT_READ)
            selector.select(_END_PATIENCE)
    except ProcessLookupError:
        pass
    finally:
        os.close(end)


def zerofs_program() -> str:
    """The command of this environment."""
    return _program("zerofs")


def _program(name: str) -> str:
    return os.fspath(program(name) or name)


def _children(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:
        return
