"""The control socket: whatever a client sends, it gets one document or is hung up on, and the next one is answered."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from unittest import mock

from tests.fuzz.place import fresh_directory
from zerofs.mount import controlplace
from zerofs.mount.control import MOST_CLIENTS, Control

DOCUMENT: dict[str, object] = {"mount": {"target": "/mnt", "device": "0:7"}}


def target(data: bytes) -> None:
    first, data = data[:1].ljust(1, b"\0")[0], data[1:]
    with (
        fresh_directory() as place,
        mock.patch.object(controlplace, "candidates", lambda _: [place / "zerofs"]),
    ):
        control = Control(lambda: DOCUMENT)
        try:
            address = place / "zerofs" / f"{os.getpid()}.sock"
            _ask(control, address, data, 1 + first)
            assert json.loads(_ask(control, address, b'{"ask": "stats"}\n', 3)) == DOCUMENT
            assert len(control._clients) == 0
        finally:
            control.close()


def _ask(control: Control, address: Path, data: bytes, step: int) -> bytes:
    """What a client gets that sends `data` in steps and then ends."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address))
        client.setblocking(False)
        answer = b""
        for at in range(0, max(len(data), 1), step):
            try:
                client.send(data[at : at + step])
            except (BrokenPipeError, ConnectionResetError):
                break
            control.serve()
            assert len(control._clients) <= MOST_CLIENTS
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        for _ in range(5):
            control.serve()
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                answer += client.recv(65536)
    control.serve()
    if answer:
        assert answer.endswith(b"\n") and answer.count(b"\n") == 1
        assert isinstance(json.loads(answer), dict)
    return answer


def samples() -> list[bytes]:
    asks = [
        b'{"ask": "stats"}\n',
        b'{"ask": ["stats"]}\n',
        b"[1]\n",
        b"[" * 900 + b"\n",
        b'{"ask": 1e999}\n',
        b"\n",
    ]
    return [bytes([step]) + ask for step in (0, 4, 255) for ask in asks]
