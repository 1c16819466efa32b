"""A server on loopback that answers as a test says: for nodes of a cluster that lie, and for what no real one does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Self

import hiredis

Answerer = Callable[
    [list[bytes]], bytes | None
]  # words of a command → the answer; None closes the connection


class FakeNode:
    """Counts what it was asked: `asked` holds every command."""

    def __init__(self, answer: Answerer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[list[bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        reader = hiredis.Reader()
        with client:
            while data := client.recv(65536):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    self.asked.append(words)
                    answer = self._answer(words)
                    if answer is None:
                        return
                    client.sendall(answer)
