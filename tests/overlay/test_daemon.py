"""Going to the background: what the caller's process says, and what the one that stays looks like."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from zerofs.mount.daemon import DaemonError, detach
here = Path(sys.argv[1])

def go(**options):
    daemon = detach(log=here / "log", **options)
    (here / "child").write_text(str(os.getpid()))
    return daemon

def stay():
    signal.pause()
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(sandbox: Sandbox) -> Iterator[Run]:
    """Runs a script that goes to the background as ``g8ufs HERE --meta some.flist``; ends what stays."""
    program = sandbox.path / "g8ufs"

    def start(script: str, **options: object) -> subprocess.CompletedProcess[str]:
        program.write_text(PRELUDE + script)
        command = [sys.executable, program, sandbox.path, "--meta", "some.flist"]
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            command, capture_output=True, text=True, check=False, cwd=sandbox.path, **options
        )

    yield start
    if (sandbox.path / "child").exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(_child(sandbox), signal.SIGKILL)


def _child(sandbox: Sandbox) -> int:
    return int((sandbox.path / "child").read_text())


def test_ready_ends_the_caller_with_0_and_the_announcement(run: Run, sandbox: Sandbox) -> None:
    done = run(
        "daemon = go(announce='mount starts', pid_file=Path('pid'))\n"
        "print('said', flush=True); print('cried', file=sys.stderr)\n"
        "(here / 'before').touch(); daemon.ready(); stay()"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "mount starts\n", "")
    assert (sandbox.path / "before").exists()
    child = _child(sandbox)
    assert (sandbox.path / "pid").read_text() == f"{child}\n"
    assert (sandbox.path / "log").read_text() == "said\ncried\n"
    arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    assert b"some.flist" in arguments
    assert os.getsid(child) == child
    assert os.readlink(f"/proc/{child}/cwd") == "/"
    assert os.readlink(f"/proc/{child}/fd/0") == "/dev/null"
    ignored = next(
        line for line in Path(f"/proc/{child}/status").read_text().splitlines() if line.startswith("SigIgn")
    )
    assert int(ignored.split()[1], 16) >> (signal.SIGHUP - 1) & 1
    assert not [name for name in os.listdir(sandbox.path) if name.startswith(".pid")]


def test_no_pipe_keeps_the_caller_waiting(run: Run) -> None:
    """A caller that reads our output to its end gets that end with the caller's process."""
    assert run("go().ready(); stay()").returncode == 0


def test_failure_gives_status_and_message(run: Run, sandbox: Sandbox) -> None:
    done = run("daemon = go(announce='mount starts'); daemon.failed(6, 'g8ufs: no backend é'); sys.exit(6)")
    assert (done.returncode, done.stdout, done.stderr) == (6, "", "g8ufs: no backend é\n")


def test_a_long_message_arrives_whole(run: Run) -> None:
    done = run("go().failed(1, 'x' * 300_000)")
    assert (done.returncode, len(done.stderr)) == (1, 300_001)


def test_a_child_that_is_killed(run: Run) -> None:
    done = run("go(announce='mount starts'); os.kill(os.getpid(), signal.SIGSEGV)")
    assert (done.returncode, done.stdout) == (1, "")
    assert "killed by SIGSEGV before the mount could be used" in done.stderr


@pytest.mark.parametrize(("ended", "status"), [(3, 3), (0, 1)])
def test_a_child_that_ends_without_a_word(run: Run, ended: int, status: int) -> None:
    done = run(f"go(); os._exit({ended})")
    assert done.returncode == status
    assert f"ended with status {ended}" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_the_caller_stops_the_child(run: Run, number: signal.Signals) -> None:
    done = run(
        "caller = os.getpid()\n"
        f"daemon = go()\n"
        "def stop(*_): daemon.failed(7, 'stopped'); os._exit(7)\n"
        f"signal.signal({number:d}, stop); os.kill(caller, {number:d}); stay()"
    )
    assert (done.returncode, done.stderr) == (7, "stopped\n")


def test_a_caller_that_is_gone_does_no_harm(run: Run) -> None:
    listening, telling = os.pipe()
    done = run(
        "caller = os.getpid()\n"
        "daemon = go()\n"
        "os.kill(caller, signal.SIGKILL)\n"
        "while os.getppid() == caller: time.sleep(0.01)\n"
        f"daemon.ready(); os.write({telling}, b'alive'); stay()",
        pass_fds=[telling],
    )
    os.close(telling)
    assert done.returncode == -signal.SIGKILL
    assert os.read(listening, 100) == b"alive"
    os.close(listening)


def test_a_log_that_cannot_be_written(run: Run) -> None:
    done = run(
        "try: detach(log=here / 'no/log')\n"
        "except DaemonError as error: print(error, '-', error.hint); sys.exit(error.exit_code)"
    )
    assert done.returncode == 1
    assert "No such file" in done.stdout
    assert "--log" in done.stdout


# -- the pid file --------------------------------------------------------------------------


def test_a_pid_file_that_cannot_be_written(run: Run) -> None:
    done = run("go(pid_file=here / 'no/pid').ready()")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot write the pid file" in done.stderr


def test_the_pid_file_goes_with_its_process(run: Run, sandbox: Sandbox) -> None:
    run(
        "daemon = go(pid_file=here / 'pid')\n"
        "signal.signal(signal.SIGTERM, lambda *_: (daemon.close(), os._exit(0)))\n"
        "daemon.ready(); stay()"
    )
    child = os.pidfd_open(_child(sandbox))
    signal.pidfd_send_signal(child, signal.SIGTERM)
    select.select([child], [], [])
    os.close(child)
    assert not (sandbox.path / "pid").exists()


def test_a_pid_file_of_another_process_is_not_removed(run: Run, sandbox: Sandbox) -> None:
    done = run(
        "daemon = go(pid_file=here / 'pid'); (here / 'pid').write_text('1\\n'); daemon.close(); daemon.ready()"
    )
    assert done.returncode == 0
    assert (sandbox.path / "pid").read_text() == "1\n"


@pytest.mark.parametrize("content", ["", "garbage", "999999999\n", "1\n"])
def test_a_stale_pid_file_is_written_over(run: Run, sandbox: Sandbox, content: str) -> None:
    (sandbox.path / "pid").write_text(content)
    assert run("go(pid_file=here / 'pid').ready(); stay()").returncode == 0
    assert (sandbox.path / "pid").read_text() == f"{_child(sandbox)}\n"


def test_the_pid_file_of_a_living_mount_is_refused(run: Run, sandbox: Sandbox) -> None:
    assert run("go(pid_file=here / 'pid').ready(); stay()").returncode == 0
    done = run(
        "try: detach(log=None, pid_file=here / 'pid')\nexcept DaemonError as error: sys.exit(str(error))"
    )
    assert f"belongs to process {_child(sandbox)}" in done.stderr
