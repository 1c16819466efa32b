"""A client for a real server in a test: what it holds is set up and looked at past the code under test."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Self

import hiredis

Command = tuple[bytes | str | int, ...]


def _packed(words: Command) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub wants one word
    return packed


class RespClient:
    """One connection; `address` is (host, port) or the path of a socket.  Not thread-safe."""

    def __init__(self, address: tuple[str, int] | str, *, timeout: float = 10.0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._socket.connect(address)
        self._reader = hiredis.Reader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def command(self, *words: bytes | str | int) -> Any:
        """The answer to one command; an error answer is raised."""
        return next(self.pipeline([words]))

    def pipeline(self, commands: Iterable[Command]) -> Iterator[Any]:
        """The answers to many commands, in order; a few dozen are in flight at once."""
        remaining = iter(commands)
        while some := list(islice(remaining, 32)):
            self._socket.sendall(b"".join(_packed(words) for words in some))
            for _ in some:
                yield self._answer()

    def _answer(self) -> Any:
        while (answer := self._reader.gets()) is False:
            data = self._socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
        if isinstance(answer, hiredis.HiredisError):
            raise answer
        return answer
