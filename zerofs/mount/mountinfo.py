"""The mount table as the kernel shows it: what is mounted where, whose it is, and whether it is dead.

Role: the only reader of ``/proc/self/mountinfo``; the backend, the overlay and ``umount`` ask it which mounts
are ours.  Reading the table touches no file system, so it never waits for a hung one; only
:func:`is_dead` asks a server something, in a thread of its own and not for longer than it is told.
The format is that of proc(5).  No locks.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

OUR_TYPES = frozenset({"fuse.g8ufs", "fuse.zerofs"})  # what our FUSE mounts call themselves
PROBE_SECONDS = 2.0  # the longest that a server may take to show that it lives

_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_LAYER = re.compile(r"(?:\\.|[^\\:])+", re.DOTALL)  # one of several, parted by colons
_GONE = (errno.ENOTCONN, errno.ECONNABORTED)  # what FUSE says once its server has died


class Mount(NamedTuple):
    """One line of the table, unescaped."""

    id: int
    parent: int
    device: str  # "major:minor"
    root: str  # the directory of the file system that is mounted
    target: str
    fstype: str  # "fuse.g8ufs", "overlay"
    source: str
    options: str  # of this mount, comma-separated
    super_options: bytes  # of the file system, comma-separated and still escaped

    @property
    def is_ours(self) -> bool:
        """Is this the FUSE mount of a flist?"""
        return self.fstype in OUR_TYPES

    @property
    def server(self) -> int | None:
        """The process that serves this mount, where it is ours: its source is that id in decimal."""
        return int(self.source) if self.is_ours and self.source.isdecimal() else None

    def option(self, name: str) -> str | None:
        """A value in the file system's own options, unescaped; None where it is not there."""
        wanted = name.encode() + b"="
        for option in self.super_options.split(b","):
            if option.startswith(wanted):
                return os.fsdecode(_unescape(option[len(wanted) :]))
        return None

    def lower_dirs(self) -> list[str]:
        """The lower layers of an overlay, the topmost first."""
        return [_unbackslash(part) for part in _LAYER.findall(self.option("lowerdir") or "")]

    def upper_dir(self) -> str | None:
        """The read-write layer of an overlay."""
        upper = self.option("upperdir")
        return None if upper is None else _unbackslash(upper)


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)


def _unbackslash(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def parse(table: bytes) -> list[Mount]:
    """The mounts of a ``mountinfo`` table, in its order: of two at one place the later covers the other."""
    mounts = []
    for line in table.rstrip(b"\n").split(b"\n"):  # other line ends may stand in a name
        head, _, tail = line.partition(b" - ")
        fields = head.split(b" ")
        kind = tail.split(b" ")
        if len(fields) < 6 or len(kind) < 3:
            raise ValueError(f"not a line of a mount table: {line!r}")
        root, target, fstype, source = (
            os.fsdecode(_unescape(field)) for field in (fields[3], fields[4], kind[0], kind[1])
        )
        mounts.append(
            Mount(
                int(fields[0]), int(fields[1]), fields[2].decode(), root, target, fstype, source,
                fields[5].decode(), kind[2],
            )
        )  # fmt: skip
    return mounts


def read() -> list[Mount]:
    """The mounts that this process sees now."""
    return parse(Path("/proc/self/mountinfo").read_bytes())


def at(path: str | os.PathLike[str], mounts: Iterable[Mount] | None = None) -> list[Mount]:
    """The mounts at exactly `path` (absolute, without links), the lowest first: the last is what is seen."""
    name = os.fspath(path)
    return [mount for mount in (read() if mounts is None else mounts) if mount.target == name]


def top(path: str | os.PathLike[str], mounts: Iterable[Mount] | None = None) -> Mount | None:
    """The mount that is seen at exactly `path`, if any."""
    stack = at(path, mounts)
    return stack[-1] if stack else None


def holding(path: str | os.PathLike[str], mounts: Iterable[Mount] | None = None) -> Mount:
    """The mount that `path` lies in: the longest target that is a prefix, the last one mounted there."""
    name = os.fspath(path).rstrip("/") + "/"
    best: Mount | None = None
    length = 0
    for mount in read() if mounts is None else mounts:
        prefix = mount.target.rstrip("/") + "/"
        if name.startswith(prefix) and len(prefix) >= length:
            best, length = mount, len(prefix)
    if best is None:
        raise LookupError(f"no mount holds {os.fspath(path)}")
    return best


def locate(path: str | os.PathLike[str]) -> Path:
    """`path` as the table names it: absolute and without links, yet without asking what is mounted at it.

    Resolving all of it would, and so wait for a server that hangs.
    """
    place = Path.cwd() / path
    for _ in range(40):  # as many links as the kernel follows
        if place.name in ("", ".."):
            return place.resolve()
        place = place.parent.resolve() / place.name
        try:
            place = place.parent / place.readlink()
        except OSError:
            return place  # not a link, or nothing there: its user will say so
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))


def is_dead(mount: Mount, *, timeout: float = PROBE_SECONDS) -> bool:
    """Has the server behind this mount died?

    Asked of a FUSE mount, and of an overlay, whose lower layer then answers.  A server that lives but says
    nothing for `timeout` seconds is not dead: it may be waiting for something itself.
    """
    if mount.fstype.startswith("fuse"):
        # Not stat(): that may be answered from attributes that the kernel has kept.
        return _dies(lambda: os.statvfs(mount.target), timeout)
    if mount.fstype == "overlay":
        # A name that nobody has looked up yet goes down to every layer.
        return _dies(lambda: os.lstat(f"{mount.target}/.probe-{os.urandom(8).hex()}"), timeout)
    return False


def _dies(probe: Callable[[], object], timeout: float) -> bool:
    verdict: list[bool] = []

    def ask() -> None:
        try:
            probe()
        except OSError as error:
            verdict.append(error.errno in _GONE)

    thread = threading.Thread(target=ask, name="mount-probe", daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(verdict) and verdict[0]
