"""What mounts of other users say to root: figures, or an error; no escape sequences."""

from __future__ import annotations

import json
import socket
from functools import cache

from tests.commands.test_figures import made_document
from zerofs.cli import figures
from zerofs.cli.change import Change, Look
from zerofs.errors import MountError
from zerofs.mount import inquiry
from zerofs.mount.inquiry import Answer, Served

_MOUNT = Served("/mnt", 42, 1000, "0:7")


def target(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.settimeout(10)
            theirs.sendall(data[:65536])
        try:
            document = inquiry._figures(inquiry._read(ours, _MOUNT, inquiry.PATIENCE), _MOUNT)
        except (MountError, OSError) as error:
            assert str(error).isprintable() or isinstance(error, OSError)
            return
    lines = list(figures.overview([Look(Answer(_MOUNT, document))]))
    try:
        with figures.understood(_MOUNT.target):
            change = Change(None, document)
        lines += figures.page(change)
    except MountError as error:
        lines.append(str(error))
    assert not any(letter < " " or letter == "\x7f" for line in lines for letter in line)


@cache
def samples() -> list[bytes]:
    document = made_document()
    escaping = json.loads(json.dumps(document))
    escaping["mount"]["engine"] = "\x1b[2J"
    return [
        json.dumps(each).encode()
        for each in (document, escaping, {"error": "\x1b[31m"}, {"mount": {}}, [], 5)
    ]
