"""Reading the kernel's mount table, and unmounting what stands below one directory and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of ``/proc/self/mountinfo``."""

    target: Path
    type: str  # "overlay", "fuse.g8ufs"
    source: str
    options: str  # those of the mount and of its file system, joined by a comma


def _plain(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def mounts() -> list[Mount]:
    """What is mounted in this process's namespace, in the order in which it was mounted."""
    table = []
    for line in Path("/proc/self/mountinfo").read_bytes().rstrip(b"\n").split(b"\n"):
        front, _, back = line.partition(b" - ")
        before, after = front.split(b" "), back.split(b" ")
        if len(after) < 3:
            continue  # the table changed while it was read: another process mounts, and not below us
        options = before[5] + b"," + after[2]
        table.append(Mount(Path(_plain(before[4])), _plain(after[0]), _plain(after[1]), _plain(options)))
    return table


def mounts_below(directory: Path) -> list[Mount]:
    """What is mounted at `directory` or below it, in the order in which it was mounted."""
    top = directory.resolve()
    return [mount for mount in mounts() if mount.target == top or top in mount.target.parents]


def mounted_at(target: Path) -> Mount | None:
    """What a look-up of `target` would reach: the last mount on it."""
    top = target.resolve()
    return next((mount for mount in reversed(mounts()) if mount.target == top), None)


def unmount_below(directory: Path) -> list[Mount]:
    """Detach everything at `directory` and below it, the last first; returns what there was."""
    found = mounts_below(directory)
    for mount in reversed(found):
        command = ["umount", "--lazy", "--no-canonicalize", str(mount.target)]
        if os.geteuid() != 0 and mount.type.startswith("fuse"):
            command = ["fusermount", "-u", "-z", str(mount.target)]
        subprocess.run(command, capture_output=True, check=False)
    return found


def remove_tree(directory: Path) -> None:
    """Remove `directory` unless something is still mounted in it: a mount's content is not ours to delete."""
    if directory.exists() and not mounts_below(directory):
        # rm, for a test may leave a tree that is deeper than Python recurses
        subprocess.run(["rm", "-rf", "--one-file-system", "--", directory], capture_output=True, check=False)
