"""Linux system calls that Python's standard library does not offer; see ``_linux.pyx``."""

from collections.abc import Sequence
from os import PathLike
from typing import Final

_Path = str | bytes | PathLike[str] | PathLike[bytes]

MS_RDONLY: Final[int]
MS_NOSUID: Final[int]
MS_NODEV: Final[int]
MS_NOEXEC: Final[int]
MS_NOATIME: Final[int]
MS_REMOUNT: Final[int]
MS_BIND: Final[int]
MS_REC: Final[int]
MS_PRIVATE: Final[int]
MNT_DETACH: Final[int]
MNT_FORCE: Final[int]
UMOUNT_NOFOLLOW: Final[int]
CLONE_NEWNS: Final[int]
CLONE_NEWUSER: Final[int]
IN_UNMOUNT: Final[int]
IN_IGNORED: Final[int]
IN_DELETE_SELF: Final[int]
IN_Q_OVERFLOW: Final[int]

def mount(
    source: _Path, target: _Path, fstype: str | bytes | None, flags: int = 0, data: _Path | None = None
) -> None: ...
def umount(target: _Path, flags: int = 0) -> None: ...
def unshare(flags: int) -> None: ...
def open_beneath(dir_fd: int, name: str | bytes, flags: int) -> int: ...
def tgkill(thread: int, number: int) -> None: ...
def spawn_as(
    process: int, gate: int, other: int, path: _Path, arguments: Sequence[bytes], variables: Sequence[bytes]
) -> None: ...
def is_same_file(one: int, other: int) -> bool: ...
def inotify_init() -> int: ...
def inotify_add_watch(fd: int, path: _Path, mask: int) -> int: ...
def inotify_read(fd: int) -> list[tuple[int, int]]: ...
def give_back_from(size: int) -> bool: ...
