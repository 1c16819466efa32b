"""The directory in which one run of the suite works, and the sweeping of those that earlier runs left.

A run's directory carries its owner in its name, ``zerofs-tests-PID-START``: whoever finds one whose process
is gone may unmount what stands in it and remove it, and touches nothing else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.support.mounts import remove_tree, unmount_below

_NAME = re.compile(r"zerofs-tests-(\d+)-(\d+)")


def _start_time(pid: int) -> int | None:
    """When the process started, in the kernel's ticks since boot; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def base_directory() -> Path:
    """Where runs work: on a disk, for overlays and caches behave differently in memory."""
    return Path(os.environ.get("ZEROFS_TEST_TMP", "/var/tmp"))


def sweep() -> None:
    """Unmount and remove what runs left whose process is gone."""
    for path in base_directory().iterdir():
        name = _NAME.fullmatch(path.name)
        if name is None or path.is_symlink() or path.stat().st_uid != os.getuid():
            continue
        if _start_time(int(name[1])) != int(name[2]):
            unmount_below(path)
            remove_tree(path)


def open_session() -> Path:
    """Sweep, then create this run's directory, which every user may enter."""
    base_directory().mkdir(parents=True, exist_ok=True)
    sweep()
    directory = base_directory() / f"zerofs-tests-{os.getpid()}-{_start_time(os.getpid())}"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    return directory


def close_session(directory: Path, *, keep: bool) -> None:
    """Unmount whatever is left; remove the directory unless a failure is to be looked at."""
    unmount_below(directory)
    if not keep:
        remove_tree(directory)
