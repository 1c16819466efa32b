"""Asking mounts how they fare: which mounts of flists there are on this host, and what their processes say.

Place: the other end of `control`, for commands.  The mount table says where flists are mounted, which process
serves each and whose it is; that process is asked at its control socket.  A union by fuse-overlayfs does not lead
to its server, so there the servers are asked which of them it is.  Threads: the caller's, and a few to ask many at
once; no locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from zerofs.errors import MountError, TakeoverError, UsageError
from zerofs.mount import controlplace, mountinfo
from zerofs.mount.backend import user_name
from zerofs.mount.control import CREDENTIALS
from zerofs.mount.mountinfo import Mount
from zerofs.mount.unmount import flist_of

PATIENCE = 5.0  # seconds for an answer; a live swap of a large tree keeps a mount busy for longer
UPGRADE_PATIENCE = 300.0  # seconds: a large tree is checked before it is served
_PLACES = {"stats": (controlplace.STATS, PATIENCE), "upgrade": (controlplace.UPGRADE, UPGRADE_PATIENCE)}
MOST_ANSWER = 4 << 20  # bytes
_AT_ONCE = 16
_NEW_SECONDS, _NEW_PAUSE = 1.0, 0.02  # a mount can be used a moment before it can be asked
BY_ASKING = "fuse.fuse-overlayfs"

Document = dict[str, Any]


class Served(NamedTuple):
    """The mount of a flist."""

    target: str  # where users see it
    process: int
    owner: int  # user id
    device: str  # "major:minor", no other mount's at this moment


class Answer(NamedTuple):
    """What became of a question: the document, or why there is none."""

    mount: Served
    document: Document | None
    problem: str = ""


def find(target: Path) -> Served:
    """The mount that is seen at `target`.

    Raises UsageError where nothing is mounted, MountError where that is no flist, or its process is dead.
    """
    place = mountinfo.locate(target)
    mount = mountinfo.top(place)
    if mount is None:
        raise UsageError(f"nothing is mounted at {place}", hint="zerofs stats lists what is")
    if mount.fstype == BY_ASKING:
        return _find_by_asking(mount)
    flist = flist_of(mount)
    if flist is None:
        if mountinfo.is_dead(mount):
            raise _dead(mount.target)
        raise MountError(f"{place} is no mount of a flist", hint="zerofs stats lists those")
    return _served(flist, mount.target)


def ask(mount: Served) -> Document:
    """What the process behind `mount` counts.  Raises MountError where it does not say."""
    _check_owner(mount)
    with contextlib.suppress(OSError):
        return _ask_patiently(mount)
    if not _lives(mount) or _is_dead(mount.target):
        sweep()
        raise _dead(mount.target)
    raise MountError(
        f"process {mount.process}, which serves {mount.target}, does not answer",
        hint="it may be busy with a live swap, or had no place for a control socket: see its log",
    )


def upgrade(mount: Served) -> Document:
    """Have the supervisor of `mount` replace the process that serves it; what it says when that is done.

    Raises MountError where nobody supervises the mount, TakeoverError where the old process had to go on.
    """
    _check_owner(mount)
    try:
        document = _put(mount, "upgrade")
    except FileNotFoundError:
        raise MountError(
            f"the mount at {mount.target} is not supervised: its process cannot be replaced",
            hint="mount it with --supervised",
        ) from None
    except OSError as error:
        raise MountError(
            f"process {mount.process}, the supervisor of {mount.target}, does not answer: {error.strerror or error}"
        ) from error
    if "error" in document:
        raise TakeoverError(f"{mount.target} is served by the old process: {document['error']}")
    if not all(isinstance(document.get(key), int) for key in ("process", "takeovers")):
        raise _senseless(mount)
    return document


def everything() -> list[Answer]:
    """All mounts of flists that this process sees, in the order of their places, each asked."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(_try, mounts()))
    return sorted(answers, key=lambda answer: answer.mount.target)


def mounts() -> list[Served]:
    """The mounts of flists that this process sees, each once, however many places it is bound to."""
    table = mountinfo.read()
    unions = {
        lower: mount.target for mount in table if mount.fstype == "overlay" for lower in mount.lower_dirs()
    }
    found: dict[str, Served] = {}
    for mount in table:
        if mount.server is not None and mount.device not in found:
            found[mount.device] = _served(mount, unions.get(mount.target, mount.target))
    return list(found.values())


def may_ask(mount: Served) -> bool:
    """Whether this user gets an answer from `mount` at all."""
    return os.geteuid() in (0, mount.owner)


def sweep() -> None:
    """Remove the sockets that killed processes of this user left."""
    with controlplace.opened_directories(os.geteuid()) as directories:
        for directory in directories:
            controlplace.sweep(directory)


def _served(flist: Mount, target: str) -> Served:
    assert flist.server is not None
    return Served(target, flist.server, int(flist.option("user_id") or 0), flist.device)


def _find_by_asking(union: Mount) -> Served:
    """The mount that is seen through a union which does not name its layers."""
    for mount in mounts():
        with contextlib.suppress(MountError):
            if ask(mount)["mount"]["target"] == union.target:
                return mount._replace(target=union.target)
    raise MountError(
        f"none of your mounts of flists is seen at {union.target}", hint="zerofs stats lists them"
    )


def _try(mount: Served) -> Answer:
    try:
        document = ask(mount)
    except MountError as error:
        return Answer(mount, None, str(error))
    return Answer(mount._replace(target=document["mount"]["target"]), document)


def _check_owner(mount: Served) -> None:
    if not may_ask(mount):
        owner = user_name(mount.owner)
        raise MountError(
            f"the mount at {mount.target} belongs to {owner}", hint="ask as that user, or as root"
        )


def _ask_patiently(mount: Served) -> Document:
    """Raises OSError where nobody answers, soon if there is not even a socket."""
    end = time.monotonic() + _NEW_SECONDS
    while True:
        try:
            return _ask_at_once(mount)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, ConnectionAbortedError):
            if time.monotonic() >= end or not _lives(mount):
                raise
        time.sleep(_NEW_PAUSE)


def _ask_at_once(mount: Served) -> Document:
    """Raises OSError as `_put` does, and where another mount is served there."""
    document = _figures(_put(mount, "stats"), mount)
    if document["mount"]["device"] != mount.device:
        raise ConnectionRefusedError  # a later process with the same number serves another mount
    return document


def _put(mount: Served, what: str) -> Document:
    """The answer.

    Raises FileNotFoundError where there is no socket, ConnectionRefusedError where nobody of the mount listens.
    """
    kind, patience = _PLACES[what]
    with controlplace.opened_directories(mount.owner) as directories:
        for directory in directories:
            with (
                contextlib.suppress(FileNotFoundError),
                _connected(directory, mount, kind, patience) as connection,
            ):
                connection.sendall(json.dumps({"ask": what}).encode() + b"\n")
                return _read(connection, mount, patience)
    raise FileNotFoundError


@contextlib.contextmanager
def _connected(directory: int, mount: Served, kind: str, patience: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        # by the kernel, so that a queue that is full is waited for, too
        seconds = struct.pack("ll", int(patience), int(patience % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        connection.connect(controlplace.address(directory, mount.process, kind))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        process, owner, _ = CREDENTIALS.unpack(credentials)
        # a supervisor that goes on for a dead one, whose number it could not have, listens under that
        if owner != mount.owner or (process != mount.process and _lives(mount)):
            raise ConnectionRefusedError  # not the one that serves the mount
        yield connection


def _read(connection: socket.socket, mount: Served, patience: float) -> Document:
    """The document; root asks the mounts of others, who may answer anything, and as slowly as they like."""
    answer = bytearray()
    end = time.monotonic() + patience
    while data := connection.recv(65536):
        answer += data
        if len(answer) > MOST_ANSWER or time.monotonic() > end:
            break
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        raise ConnectionAbortedError from None  # it ended, or dropped us, before the document was whole
    if not isinstance(document, dict):
        raise _senseless(mount)
    if "error" in document:
        document["error"] = ascii(document["error"])[1:-1][:200]
    return document


def _figures(document: Document, mount: Served) -> Document:
    """The `document`, if it is one of figures; raises MountError for an error or anything else."""
    if "error" in document:
        raise MountError(f"process {mount.process}, which serves {mount.target}: {document['error']}")
    if not _names_its_mount(document):
        raise _senseless(mount)
    return document


def _senseless(mount: Served) -> MountError:
    return MountError(
        f"process {mount.process}, which serves {mount.target}, does not say what a mount counts",
        hint="it is of another version, or none of ours",
    )


def _names_its_mount(document: Document) -> bool:
    mount = document.get("mount")
    return isinstance(mount, dict) and all(isinstance(mount.get(key), str) for key in ("target", "device"))


def _lives(mount: Served) -> bool:
    return Path(f"/proc/{mount.process}").exists()


def _is_dead(target: str) -> bool:
    mount = mountinfo.top(target)
    return mount is not None and mountinfo.is_dead(mount)


def _dead(target: str) -> MountError:
    return MountError(f"the process that served {target} is dead", hint=f"zerofs umount {target}")
