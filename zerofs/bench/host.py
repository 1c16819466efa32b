"""What a measurement needs of the machine: cold caches, a server's memory, and what is installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from zerofs.errors import MountError
from zerofs.interruption import uninterrupted

_DROP = Path("/proc/sys/vm/drop_caches")


def can_go_cold() -> bool:
    """Whether this process may drop the kernel's caches."""
    return os.geteuid() == 0 and os.access(_DROP, os.W_OK)


def drop_caches() -> None:
    """Write back what is dirty and drop page cache, dentries and inodes.

    Pages that a process has mapped stay: whoever is to be cold has to be unmounted, its server gone.
    """
    os.sync()
    _DROP.write_text("3\n")


def kernel_has(file_system: str) -> bool:
    """Whether the kernel can mount it, loading its module where that helps."""
    if file_system in Path("/proc/filesystems").read_text().split():
        return True
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if modprobe is None:
        return False
    subprocess.run([modprobe, "--quiet", file_system], check=False, capture_output=True)
    return file_system in Path("/proc/filesystems").read_text().split()


def command(*argv: str | os.PathLike[str]) -> str:
    """Run a program to its end; returns what it printed.  The last line that it said is the error where it fails."""
    pipe = subprocess.PIPE
    process: subprocess.Popen[str] | None = None
    try:
        with uninterrupted():  # or nobody would know of the program that was started
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        output, errors = process.communicate()
    except FileNotFoundError:
        raise MountError(f"{os.fspath(argv[0])} is not installed", hint="make build installs it") from None
    except BaseException:
        if process is not None:
            process.kill()
            process.communicate()  # to its very end: what it was about to mount has to be taken down after it
        raise
    if process.returncode:
        said = ((errors or output).strip().splitlines() or ["it said nothing"])[-1]
        raise MountError(f"{os.fspath(argv[0])} ended with status {process.returncode}: {said}", hint="")
    return output


def own_memory(pid: int) -> float:
    """MiB that the process alone holds in anonymous memory: ``Pss_Anon``.

    Resident size would count the pages of mapped files, which are shared or can be dropped.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss_Anon":
            return int(value.split()[0]) / 1024
    raise MountError("this kernel does not tell Pss_Anon", hint="")


def describe() -> dict[str, object]:
    """The machine, for the report."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "python": platform.python_version(),
    }
