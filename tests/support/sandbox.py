"""A test's own directory, the commands that it runs there, and the end of everything that it started.

Commands run as child processes, as a user would run them, and never in the process of the suite: a file
system that hangs must not hang the suite.  `Sandbox.close` ends each of them by its process id, unmounts what
is left below the directory, and tells what should not have been left or logged.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.logs import unexpected
from tests.support.mounts import mounts_below, unmount_below

BINARIES = Path(sys.executable).parent
READY = b"mount starts\n"
PROCESS_END = 15.0  # seconds that a mount has to come down after SIGTERM


def _log_argument(args: Iterable[str]) -> Path | None:
    words = list(args)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, _, value = word.lstrip("-").partition("=")
        if word.startswith("-") and option == "log":
            return Path(value or following)
    return None


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class MountProcess:
    """A mount command that stays in the foreground.  Ready when the constructor returns."""

    def __init__(
        self, argv: list[str], target: Path, stderr: Path, allow: Iterable[str], timeout: float
    ) -> None:
        self.target = target
        self.allow = tuple(allow)
        self.logs = [path for path in (stderr, _log_argument(argv)) if path is not None]
        self.argv = argv
        self.output = b""
        self.killed = False
        with stderr.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        self.pid = self.process.pid
        self._read_until_ready(time.monotonic() + timeout)

    def _read_until_ready(self, deadline: float) -> None:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while READY not in self.output:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.stop(signal.SIGKILL)
                    raise AssertionError(f"not mounted in time: {self.describe()}")
                data = os.read(self.process.stdout.fileno(), 4096)
                if not data:
                    self.process.wait()
                    raise AssertionError(
                        f"exit status {self.process.returncode} instead of a mount: {self.describe()}"
                    )
                self.output += data

    def describe(self) -> str:
        """The command and what it said."""
        return f"{' '.join(self.argv)}\n{self.log()}"

    def log(self) -> str:
        """Its stderr and its log file."""
        return "".join(path.read_text(errors="replace") for path in self.logs if path.exists())

    def wait(self, timeout: float = PROCESS_END) -> int:
        """Its exit status; an end that does not come fails the test."""
        assert self.process.stdout is not None
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running: {self.describe()}") from None
        if not self.process.stdout.closed:
            self.output += self.process.stdout.read()
            self.process.stdout.close()
        return status

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal, SIGTERM unless told, and wait for the end; returns the exit status."""
        if self.process.poll() is None:
            self.killed |= signal_number == signal.SIGKILL
            self.process.send_signal(signal_number)
        return self.wait()

    def problems(self) -> list[str]:
        """What a mount that was not killed should not have written."""
        found = [f"logged: {line}" for line in unexpected(self.log(), self.allow)]
        if self.output.replace(READY, b"", 1):
            found.append(f"stdout holds more than the ready line: {self.output!r}")
        return found


class Sandbox:
    """A directory on a disk, enterable by every user, and what a test runs in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mounts: list[MountProcess] = []
        self._count = 0

    def directory(self, name: str) -> Path:
        """A directory of that name in the sandbox, created if it is missing."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run(
        self,
        command: str,
        *args: str | os.PathLike[str],
        status: int | None = 0,
        timeout: float = 60.0,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of our commands (``zerofs``, ``g8ufs``, ``0-fs``) to its end.

        Any exit status but `status` fails the test; None accepts all.
        """
        argv = [str(BINARIES / command), *(os.fspath(word) for word in args)]
        done = subprocess.run(
            argv,
            capture_output=True,
            timeout=timeout,
            input=b"" if input is None else input,
            env={**os.environ, **(env or {})},
            cwd=cwd or self.path,
            check=False,
        )
        if status is not None and done.returncode != status:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise AssertionError(f"exit status {done.returncode}, not {status}: {' '.join(argv)}\n{said}")
        return done

    def mount(
        self,
        *args: str | os.PathLike[str],
        target: Path | None = None,
        command: str = "g8ufs",
        allow: Iterable[str] = (),
        timeout: float = 60.0,
    ) -> MountProcess:
        """Mount in a child process that stays in the foreground; returns once it said ``mount starts``.

        `target` (default: ``mnt`` in the sandbox) is created and added to the arguments.  `allow` holds
        regular expressions for the warnings that the test provokes.
        """
        target = self.directory("mnt") if target is None else target
        target.mkdir(parents=True, exist_ok=True)
        self._count += 1
        argv = [str(BINARIES / command), *(os.fspath(word) for word in args), str(target)]
        process = MountProcess(argv, target, self.path / f"stderr-{self._count}.log", allow, timeout)
        self._mounts.append(process)
        return process

    def _end_daemons(self) -> list[str]:
        """End the servers in the background: the source of a FUSE mount is its server's process id."""
        ours = [mount for mount in mounts_below(self.path) if mount.type == "fuse.g8ufs"]
        pids = {int(mount.source) for mount in ours if mount.source.isdecimal()}
        for pid in pids:
            if _alive(pid):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + PROCESS_END
        while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)
        return [f"process {pid} did not end after SIGTERM" for pid in pids if _alive(pid)]

    def close(self) -> list[str]:
        """End all processes, unmount all that is left; returns what should not have been, one line each."""
        problems: list[str] = []
        killed = any(process.killed for process in self._mounts)
        for process in reversed(self._mounts):
            try:
                process.stop()
            except AssertionError as error:
                problems.append(str(error))
                process.stop(signal.SIGKILL)
            problems += process.problems()
        problems += self._end_daemons()
        left = unmount_below(self.path)
        if not killed:
            problems += [f"left mounted: {mount.target} ({mount.type})" for mount in left]
        return problems
