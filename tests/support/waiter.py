"""A server that is killed at the worst moment of a swap: while it waits for a reader who waits for it.

Who lists a directory has its lock, which the kernel takes to forget a name in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.sandbox import Sandbox
from tests.support.waiting import SECONDS, eventually

_CODE = """
from pathlib import Path
from zerofs.mount import flistmount
forget = flistmount.FlistMount.forget
def behind_a_reader(self, *what):
    self._engine.halt(1.0)  # whoever asks now is not answered
    Path({place!r}).touch()
    while Path({place!r}).exists():
        pass
    forget(self, *what)
flistmount.FlistMount.forget = behind_a_reader
"""
_READER = """
import os, sys
root = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
sys.stdin.readline()
print(*sorted(os.listdir(root)))
"""


class Waiting:
    """`code` is what the server is to run before it begins."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._place = sandbox.path / "waits"
        self.code = _CODE.format(place=str(self._place))

    def kill(self, server: int, root: Path, swap: Callable[[], object]) -> tuple[int, str]:
        """Have `server` begin to `swap` the tree at `root`, and kill it; how a reader ended, and what that listed."""
        reader = subprocess.Popen(
            [sys.executable, "-c", _READER, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert reader.stdout is not None and reader.stdin is not None
        try:
            reader.stdout.readline()
            swap()
            eventually(self._place.exists, "the swap")
            reader.stdin.write("\n")
            reader.stdin.flush()
            stack = Path(f"/proc/{reader.pid}/stack")
            eventually(lambda: "fuse_readdir" in stack.read_text(), "the reader that has the lock")
            self._place.unlink()
            children = Path(f"/proc/{server}/task/{server}/children")
            eventually(lambda: children.read_text().split(), "who tells the kernel")
            told = [Path(f"/proc/{child}") for child in children.read_text().split()]
            eventually(
                lambda: any("inval_entry" in (child / "stack").read_text() for child in told), "its wait"
            )
        finally:
            os.kill(server, signal.SIGKILL)
            said, _ = reader.communicate(timeout=SECONDS)
        eventually(lambda: not any((child / "exe").exists() for child in told), "the end of both")
        return reader.returncode, said
