"""A real redis-server: on loopback, on a free port, nothing persisted, ended by its process id."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from zerofs.errors import StoreUnreachableError


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisProcess:
    """A running server with its files in `directory`; `options` go to redis-server as they stand.

    Raises StoreUnreachableError where it is not installed or does not start.
    """

    host = "127.0.0.1"

    def __init__(self, directory: Path, options: Iterable[str] = ()) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise StoreUnreachableError("redis-server is not installed", hint="make build installs it")
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "redis.log"
        self._command = [binary, "--dir", str(directory), "--bind", self.host]
        self._command += ["--save", "", "--appendonly", "no", *options]
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start, or start again on the same port, empty; returns once it listens."""
        # Its own death signal: whoever started it and is killed leaves no server.
        command = ["setpriv", "--pdeathsig", "KILL", "--", *self._command, "--port", str(self.port)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                last = (self._log.read_text().strip().splitlines() or ["it said nothing"])[-1]
                raise StoreUnreachableError(f"redis-server did not start: {last}")
            time.sleep(0.01)

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5) as probe:
                probe.sendall(b"PING\r\n")
                return bool(probe.recv(64))
        except ConnectionError:
            return False

    def stop(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``redis://host:port``."""
        return f"redis://{self.host}:{self.port}"
