"""What a mount is asked to do, apart from how the command line spells it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DEFAULT_BACKEND = Path("/tmp/backend")
DEFAULT_TIMEOUT = 30.0  # seconds
ENGINES = ("auto", "fast", "llfuse")
PREFETCH = ("on", "off", "heuristics", "profile")


class MountOptions(NamedTuple):
    """One mount; the fields are the options of the drop-in command."""

    target: Path
    meta: tuple[str, ...] = ()  # flists, the last on top
    backend: Path | None = None  # None: private and in memory
    cache: Path | None = None  # None: BACKEND/ca
    storage_url: str | None = None
    local_router: Path | None = None
    read_only: bool = False
    reset: bool = False
    log: Path | None = None
    daemon: bool = False
    pid_file: Path | None = None
    debug: bool = False
    engine: str = "auto"
    prefetch: str = "on"  # of PREFETCH
    prefetch_rate: int | None = None  # bytes a second, of all that nobody waits for; None: no bound
    complete: int | None = None  # bytes a second at which the rest of the image is fetched; None: not
    timeout: float = DEFAULT_TIMEOUT  # seconds that a read may wait
    cache_size: str | None = None  # as the user wrote it: bytes with a suffix, or per cent of the disk
    cache_free: str | None = None  # as the user wrote it: what the cache leaves free of its disk
    rw_size: str | None = None
    allow_unverified: bool = False
    max_flist_size: int | None = None  # bytes
    mount_options: frozenset[str] = frozenset()  # suid, dev, …
    subtype: str = "g8ufs"  # the FUSE mount's type is fuse.SUBTYPE
    supervised: bool = False  # another process holds the mount, and starts a server anew
    timings: bool = False  # say on stderr where the time to the mount went
