"""An emulated link (`zerofs.bench.link`) as a process that is started, asked what has passed, and ended."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Self

from zerofs.bench.line import Conditions
from zerofs.errors import StoreUnreachableError


class Passed(NamedTuple):
    """What went over a link."""

    connections: int  # that were opened
    requests: int  # RESP commands
    keys: tuple[str, ...]  # what GET asked for, each once, in hexadecimal digits, in order
    sent: int  # bytes towards the server
    received: int  # bytes from the server
    late_mean: float  # seconds that a piece came out after its moment
    late_most: float


class LinkProcess:
    """A link to `server` in a process of its own; its messages go into a log in `directory`.

    Raises StoreUnreachableError where it does not start.
    """

    def __init__(self, server: tuple[str, int], conditions: Conditions, directory: Path) -> None:
        self.conditions = conditions
        arguments = [server[0], str(server[1]), *map(str, conditions)]
        with (directory / "link.log").open("ab") as log:
            # its own death signal, and a group in which no interrupt from the terminal reaches it
            self._process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "--",
                    sys.executable,
                    "-m",
                    "zerofs.bench.link",
                    *arguments,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )
        self.address = "127.0.0.1", int(self._line() or 0)

    @property
    def url(self) -> str:
        """What a mount is told instead of the server's."""
        return f"redis://{self.address[0]}:{self.address[1]}"

    def passed(self) -> Passed:
        """What went over it since the last call, or the start."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise StoreUnreachableError("the emulated link has ended") from None
        told: dict[str, Any] = json.loads(self._line())
        return Passed(**told | {"keys": tuple(told["keys"])})

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line: bytes = self._process.stdout.readline()
        if not line:
            self.stop()
            raise StoreUnreachableError("the emulated link has ended")
        return line

    def stop(self) -> None:
        """End it, with every connection; fine where it has ended."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
