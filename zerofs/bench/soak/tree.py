"""The tree that a soak mounts, and the comparison of the mount with it."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

_PIECE = 1 << 20  # bytes compared at once
_STATUS = ("st_mode", "st_uid", "st_gid", "st_nlink")


def make_tree(root: Path, chance: random.Random, size: int) -> None:
    """Fill `root` with about `size` bytes: small files, files of several chunks, empty ones, links, deep paths."""
    root.mkdir(parents=True)
    directories = [root]
    written = number = 0
    while written < size:
        if number % 12 == 0:
            directory = chance.choice(directories[-6:]) / f"d{number}"
            directory.mkdir(mode=chance.choice([0o755, 0o700, 0o711]))
            directories.append(directory)
        path = chance.choice(directories) / f"f{number}"
        content = _content(chance)
        path.write_bytes(content)
        path.chmod(chance.choice([0o644, 0o600, 0o4755, 0o444]))
        if number % 10 == 0:
            path.with_name(f"l{number}").symlink_to(path.name)
        written += len(content)
        number += 1
    for path in [*root.rglob("*"), root]:
        os.utime(path, (1_600_000_000, 1_600_000_000 + chance.randrange(10**8)), follow_symlinks=False)


def _content(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.05:
        return b""
    length = chance.randrange(1, 20_000) if kind < 0.7 else chance.randrange(20_000, 2_500_000)
    if chance.random() < 0.3:  # compressible
        return (chance.randbytes(997) * (length // 997 + 1))[:length]
    return chance.randbytes(length)


def differences(root: Path, source: Path) -> Iterator[str]:
    """What the tree at `root` shows otherwise than `source`, a line each; every byte is read past the page cache.

    Raises OSError where something cannot be read.
    """
    pending = [Path()]
    while pending:
        name = pending.pop()
        ours, theirs = root / name, source / name
        status, expected = ours.lstat(), theirs.lstat()
        yield from _status_differences(name, status, expected)
        if stat.S_ISDIR(expected.st_mode):
            there, wanted = ([path.name for path in sorted(each.iterdir())] for each in (ours, theirs))
            if there != wanted:
                yield f"{name}: lists {len(there)} names, not the {len(wanted)} it has"
            pending += [name / child for child in wanted]
        elif stat.S_ISLNK(expected.st_mode):
            if ours.readlink() != theirs.readlink():
                yield f"{name}: leads to {ours.readlink()}"
        elif not same_bytes(ours, theirs):
            yield f"{name}: wrong bytes"


def _status_differences(name: Path, status: os.stat_result, expected: os.stat_result) -> Iterator[str]:
    for field in _STATUS:
        if field == "st_nlink" and stat.S_ISDIR(expected.st_mode):
            continue  # which says nothing on many file systems
        if getattr(status, field) != getattr(expected, field):
            yield f"{name}: {field} is {getattr(status, field)}, not {getattr(expected, field)}"
    if int(status.st_mtime) != int(expected.st_mtime):
        yield f"{name}: st_mtime is {status.st_mtime}, not {expected.st_mtime}"
    if not stat.S_ISDIR(expected.st_mode) and status.st_size != expected.st_size:
        yield f"{name}: has {status.st_size} bytes, not {expected.st_size}"


def same_bytes(ours: Path, theirs: Path) -> bool:
    """Whether two files hold the same; the first is read anew."""
    with ours.open("rb", buffering=0) as file, theirs.open("rb", buffering=0) as other:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        at = 0
        while True:
            piece = os.pread(file.fileno(), _PIECE, at)
            if piece != os.pread(other.fileno(), len(piece) or 1, at):
                return False
            if not piece:
                return True
            at += len(piece)
