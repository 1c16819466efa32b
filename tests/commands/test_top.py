"""`zerofs top` on a terminal, which must look as before whatever ends it.  What it shows stands in a fake mount."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator

import pytest

ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"
PROGRAM = """
    import sys
    from zerofs.cli import main
    from zerofs.errors import UsageError
    from zerofs.mount import inquiry

    def everything():
        everything.looks += 1
        if everything.looks == {fails}:
            raise UsageError("it broke")
        return [inquiry.Answer(inquiry.Served("/mnt", 1, 0, "0:7"), None, f"look {{everything.looks}}")]

    everything.looks = 0
    inquiry.everything = everything
    sys.exit(main(["top", "--interval", "{interval}", *sys.argv[1:]]))
"""


class Terminal:
    """The command on a terminal of its own, in a group of processes that a shell could stop."""

    def __init__(self, *options: str, interval: float = 60, fails: int = 0) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        program = textwrap.dedent(PROGRAM).format(interval=interval, fails=fails)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *options],
            stdin=slave, stdout=slave, stderr=slave, process_group=0,
        )  # fmt: skip
        self.seen = b""

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + 20
        while text not in self.seen:
            assert select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self.master, 4096)

    def end(self) -> int:
        """The exit status; what was still to be seen has been."""
        self.until(LEFT)
        status = self.process.wait(20)
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 4096)
        return status

    def is_as_before(self) -> bool:
        shown = self.seen.rindex(b"\x1b[?25h")  # the cursor, and then the screen
        return termios.tcgetattr(self.slave) == self.before and shown < self.seen.rindex(LEFT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    terminal = Terminal(**getattr(request, "param", {}))
    yield terminal
    terminal.close()


def test_q_ends_it(terminal: Terminal) -> None:
    terminal.until(b"look 1")
    assert termios.tcgetattr(terminal.slave) != terminal.before
    os.write(terminal.master, b" ")  # any other key draws again, long before the interval is over
    terminal.until(b"look 2")
    os.write(terminal.master, b"q")
    assert terminal.end() == 0
    assert terminal.is_as_before()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130), (signal.SIGQUIT, 130)],
)
def test_signals(terminal: Terminal, number: signal.Signals, status: int) -> None:
    terminal.until(b"look 1")
    terminal.process.send_signal(number)
    assert terminal.end() == status
    assert terminal.is_as_before()


@pytest.mark.parametrize("terminal", [{"interval": 0.05, "fails": 3}], indirect=True)
def test_an_error(terminal: Terminal) -> None:
    assert terminal.end() == 2
    assert terminal.is_as_before()
    assert b"it broke" in terminal.seen[terminal.seen.rindex(LEFT) :]


def test_it_can_be_stopped_and_goes_on(terminal: Terminal) -> None:
    terminal.until(b"look 1")
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.until(LEFT)
    os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert terminal.is_as_before()
    terminal.seen = b""
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(b"look 2")
    assert ENTERED in terminal.seen
    os.write(terminal.master, b"q")
    assert terminal.end() == 0


def test_another_size_is_taken_up(terminal: Terminal) -> None:
    terminal.until(b"look 1")
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.until(b"look 2")


def test_a_count(request: pytest.FixtureRequest) -> None:
    terminal = Terminal("--count", "2", interval=0.05)
    try:
        assert terminal.end() == 0
        assert b"look 2" in terminal.seen and b"look 3" not in terminal.seen
    finally:
        terminal.close()


@pytest.mark.parametrize("option", ["--interval=0", "--interval=x", "--count=0"])
def test_numbers_that_make_no_sense(option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zerofs", "top", option], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "no number above 0" in done.stderr
