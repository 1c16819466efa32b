"""Going to the background without lying about it.

Role: :func:`detach` forks before there is any thread or mount.  The child goes on, and the caller's process
waits until the child says over a pipe that the mount can be used, or why not; it then ends with that very
status.  A fork without exec leaves the arguments as they are in the child's command line, by which callers
find it.  No threads, no locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from zerofs.errors import ZerofsError
from zerofs.interruption import uninterrupted
from zerofs.mount import systemd

_READY = b"\0"  # anything else is an exit status and a message
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_OUR_NAMES = (b"g8ufs", b"0-fs", b"zerofs")  # as a program, as python's script, after python -m


class DaemonError(ZerofsError):
    """The process cannot go to the background as it was asked to."""


class Daemon:
    """The child's side.  Exactly one of :meth:`ready` and :meth:`failed` ends the caller's process."""

    def __init__(self, channel: int, pid_file: Path | None) -> None:
        self._channel = channel
        self._pid_file = pid_file

    def ready(self) -> None:
        """The mount can be used: the caller's process, if it still waits, ends with status 0."""
        os.chdir("/")  # so as not to keep busy what the caller happened to stand in
        self._tell(_READY)

    def failed(self, code: int, message: str) -> None:
        """The caller's process writes `message` to its stderr and ends with status `code` (1 to 255)."""
        self._tell(bytes([code]) + message.encode(errors="replace"))

    def close(self) -> None:
        """Remove the pid file, if it still is ours; the last thing before the process ends."""
        if self._pid_file is not None and _read_pid(self._pid_file) == os.getpid():
            self._pid_file.unlink(missing_ok=True)

    def _tell(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            while message:
                message = message[os.write(self._channel, message) :]
        os.close(self._channel)


def detach(*, log: Path | None, pid_file: Path | None = None, announce: str = "") -> Daemon:
    """Go to the background.  Returns in the child alone; the caller's process ends in here.

    From then on stdout and stderr of the child are appended to `log` (None: thrown away) and stdin is
    empty; SIGHUP is ignored until somebody handles it.  `pid_file` holds the child's process id from before
    it is ready.  `announce` is what the caller's process prints on stdout once the mount can be used.
    Raises DaemonError in the caller's process where `log` cannot be written or `pid_file` belongs to a
    living mount.
    """
    output = _open_log(log)
    if pid_file is not None:
        pid_file = Path.cwd() / pid_file
        _check_pid_file(pid_file)
    sys.stdout.flush()
    sys.stderr.flush()
    listening, telling = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)  # until each side can deal with them
    child = os.fork()
    if child:
        os.close(telling)
        os.close(output)
        _wait(child, listening, announce)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    os.close(listening)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o022)
    _redirect(output)
    daemon = Daemon(telling, pid_file)
    if pid_file is not None:
        try:
            with uninterrupted():
                _write_pid(pid_file)
        except OSError as error:
            daemon.failed(DaemonError.exit_code, f"cannot write the pid file {pid_file}: {error.strerror}")
            os._exit(DaemonError.exit_code)
        except KeyboardInterrupt:
            daemon.close()
            raise
    return daemon


def _open_log(log: Path | None) -> int:
    try:
        return os.open(
            log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o644
        )
    except OSError as error:
        raise DaemonError(
            f"cannot write the log {log}: {error.strerror}", hint="choose another file with --log"
        ) from error


def _redirect(output: int) -> None:
    empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, place in ((empty, 0), (output, 1), (output, 2)):
        os.dup2(source, place)
    for source in {empty, output} - {0, 1, 2}:
        os.close(source)


# -- the caller's process ------------------------------------------------------------------


def _wait(child: int, listening: int, announce: str) -> NoReturn:
    """Wait for the child's word and end with it.  Who interrupts this process interrupts the child."""
    with _passing_on(child):
        message = b"".join(iter(lambda: os.read(listening, 4096), b""))
        if message == _READY:
            code = 0
            systemd.tell(f"MAINPID={child}", "READY=1")
            systemd.await_heard()
        elif message:
            code = message[0] or 1
            _print_error(message[1:].decode(errors="replace"))
        else:
            code = _died(child)
    if code == 0 and announce:
        with contextlib.suppress(BrokenPipeError):  # nobody listens: the mount is there all the same
            os.write(1, os.fsencode(announce) + b"\n")
    os._exit(code)


@contextlib.contextmanager
def _passing_on(child: int) -> Iterator[None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _STOPPING:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    yield
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)  # the child has spoken: its word counts


def _died(child: int) -> int:
    """The child ended without a word: its status, or 1 where it had none."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    reason = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    _print_error(f"the background process {reason} before the mount could be used (see its log)")
    return status if status > 0 else 1


def _print_error(message: str) -> None:
    os.write(2, f"{message}\n".encode(errors="replace"))


# -- the pid file --------------------------------------------------------------------------


def _read_pid(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise DaemonError(f"cannot read the pid file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        return None
    return int(text) if text.isascii() and text.isdecimal() else None


def _check_pid_file(path: Path) -> None:
    """Raise DaemonError where `path` names a living mount, or has no place; a stale file is written over."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DaemonError(
            f"cannot write the pid file {path}: its directory is missing, or not to be written to",
            hint="choose another file with --pid",
        )
    process = _read_pid(path)
    if process is not None and process != os.getpid() and _is_ours(process):
        raise DaemonError(
            f"the pid file {path} belongs to process {process}, which is running",
            hint="give each daemon a --pid file of its own",
        )


def _is_ours(process: int) -> bool:
    try:
        arguments = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # no such process
    return any(argument.rpartition(b"/")[2] in _OUR_NAMES for argument in arguments[:3])


def _write_pid(path: Path) -> None:
    """Write this process's id, so that nobody ever reads half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(f"{os.getpid()}\n")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
