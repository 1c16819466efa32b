"""What a supervisor and the process that serves its mount say to each other: documents of JSON, and descriptors.

Place: below `supervisor` and `session`, the two ends.  Messages keep their bounds (a socket of sequenced packets), and
carry descriptors by name.  No threads, no locks.

What is said, ``say`` being the word.  By the supervisor: *hello* (what there is to be served, with the descriptors that
a predecessor left), *go* (take requests from now on), *retire* (take no more), *resume*, *leave*.  By the server:
*state* (what a successor would need, with descriptors), *prepared*, *ready*, *failed*, *retired*, *ending* (on
purpose), *ended*.

What comes with a *state* as `KEPT` is closed when a supervisor that deposits it with systemd has done so.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

PROTOCOL = 1  # of these messages; a supervisor lives on while programs are exchanged
KEPT = "kept"  # the name of a descriptor
_LONGEST = 65536  # bytes; what may be long travels in a file in memory
_MOST_DESCRIPTORS = 250  # the kernel takes 253


class Message(NamedTuple):
    """One message."""

    say: str
    fields: dict[str, Any]
    files: dict[str, int]  # name → descriptor, the receiver's to close


def send(
    connection: socket.socket, say: str, files: Mapping[str, int] | None = None, **fields: object
) -> bool:
    """Send a message; False where nobody is there any more."""
    files = files or {}
    data = json.dumps({"say": say, "files": list(files), **fields}).encode()
    try:
        socket.send_fds(connection, [data], list(files.values()))
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def receive(connection: socket.socket) -> Message | None:
    """The next message, waited for as `connection` is set; None where nobody is there any more."""
    try:
        data, descriptors, _, _ = socket.recv_fds(
            connection, _LONGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    if not data:
        return None
    fields = json.loads(data)
    return Message(fields.pop("say"), fields, dict(zip(fields.pop("files"), descriptors, strict=True)))
