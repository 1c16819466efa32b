"""A real redis-server of a test's own, and looking into it past the code under test."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.resp import RespClient
from zerofs.bench.redisserver import RedisProcess, free_port

__all__ = ["RedisServer", "free_port"]


class RedisServer(RedisProcess):
    """A running server; `stop` ends it by its process id.  `args` go to redis-server as they stand."""

    def __init__(
        self,
        directory: Path,
        *,
        password: str | None = None,
        unixsocket: bool = False,
        args: Iterable[str] = (),
    ) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed")
        self.password = password
        self.socket: Path | None = directory / "redis.sock" if unixsocket else None
        options = ["--requirepass", password] if password is not None else []
        options += ["--unixsocket", str(self.socket)] if self.socket is not None else []
        super().__init__(directory, [*options, *args])

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
