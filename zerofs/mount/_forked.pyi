"""The processes that are forked to wait for the kernel in place of a server; see ``_forked.pyx``."""

from os import PathLike
from typing import Final

_Path = str | bytes | PathLike[str] | PathLike[bytes]

REMOUNT: Final[int]

def fork_writer(requests: int, channel: int) -> int: ...
def fork_watcher(alive: int, writer: int, abortion: _Path, mountpoint: _Path) -> int: ...
