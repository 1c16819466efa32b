"""A real redis-server of a test's own: on loopback, on a free port, without persistence."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import pytest

from tests.support.resp import RespClient


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A running server; `stop` ends it by its process id.  `args` go to redis-server as they stand."""

    host = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        *,
        password: str | None = None,
        unixsocket: bool = False,
        args: Iterable[str] = (),
    ) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        self.password = password
        self.socket: Path | None = directory / "redis.sock" if unixsocket else None
        self._log = directory / "redis.log"
        self._options = ["--dir", str(directory), "--bind", self.host, "--save", "", "--appendonly", "no"]
        self._options += ["--requirepass", password] if password is not None else []
        self._options += ["--unixsocket", str(self.socket)] if self.socket is not None else []
        self._options += args
        self._binary = binary
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start, or start again on the same port, empty; returns once it answers."""
        # Its own death signal: a suite that is killed leaves no server.
        command = ["setpriv", "--pdeathsig", "KILL", "--", self._binary, "--port", str(self.port)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command + self._options, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client() as client:
                    client.command("PING")
                return
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"redis-server did not start:\n{self._log.read_text()}") from None
                time.sleep(0.01)

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
        """``redis://[password@]host:port``, the password as the user part alone."""
        user = "" if self.password is None else f"{self.password}@"
        return f"redis://{user}{self.host}:{self.port}"

    def client(self) -> RespClient:
        """A connection, logged in where there is a password."""
        client = RespClient((self.host, self.port))
        if self.password is not None:
            client.command("AUTH", self.password)
        return client

    def load(self, chunks: Iterable[tuple[bytes, bytes]]) -> int:
        """Put (id, payload) pairs; returns how many."""
        with self.client() as client:
            return sum(1 for _ in client.pipeline(("SET", id, payload) for id, payload in chunks))

    def dump(self) -> dict[bytes, bytes]:
        """Everything that it holds."""
        with self.client() as client:
            names = client.command("KEYS", "*")
            return dict(zip(names, client.pipeline(("GET", name) for name in names), strict=True))
