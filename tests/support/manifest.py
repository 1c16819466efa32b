"""The listing of a tree that two trees share when a reader cannot tell them apart.

One JSON object a path, parents first and names sorted as bytes: kind, mode, owner, mtime in seconds, and the
size and SHA-256 of a file, the target of a link, the number of a device.  The lines are those of the golden
manifests, to the byte.  Run as a program, ``python manifest.py ROOT`` prints them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator

_KINDS = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "block",
    stat.S_IFSOCK: "socket",
}


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row(path: bytes, name: bytes, status: os.stat_result) -> str:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    row: dict[str, object] = {
        "path": os.fsdecode(name),
        "kind": kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": int(status.st_mtime),
    }
    if kind == "file":
        row["size"] = status.st_size
        row["sha256"] = _digest(path)
    elif kind == "link":
        row["target"] = os.fsdecode(os.readlink(path))
    elif kind in ("chardev", "block"):
        row["rdev"] = f"{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
    return json.dumps(row, sort_keys=True)


def manifest(root: str | os.PathLike[str]) -> Iterator[str]:
    """The lines of the tree at `root`, without their newlines."""
    pending = [(os.fsencode(root), b".")]
    while pending:
        path, name = pending.pop()
        status = os.lstat(path)
        yield _row(path, name, status)
        if stat.S_ISDIR(status.st_mode):
            prefix = b"" if name == b"." else name + b"/"
            children = sorted(os.listdir(path), reverse=True)
            pending.extend((os.path.join(path, child), prefix + child) for child in children)


if __name__ == "__main__":
    for line in manifest(sys.argv[1]):
        print(line)
