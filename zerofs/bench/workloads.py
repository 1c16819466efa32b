"""What a container does when it starts: programs of the image, run in it, and when they say their first word."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from zerofs.errors import MountError

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
_ROOT = "{root}"  # in an argument: the root of the tree
_PIECE = 1 << 20  # bytes of output taken at once


class Workload(NamedTuple):
    """A program and what it does."""

    name: str
    title: str
    argv: tuple[str, ...]
    needs: str = ""  # a path, as a pattern, without which the image cannot run it
    usual: bool = True  # part of a run that names none
    guest: bool = True  # a program of the image; else the host's own does as well


class Ran(NamedTuple):
    """Moments of `time.perf_counter`."""

    first: float  # the first byte of output; the end, of a program that says nothing
    end: float


_NUMPY = "usr/lib/python3/dist-packages/numpy"
WORKLOADS = (
    Workload("true", "/bin/true", ("/bin/true",), "bin/true"),
    Workload(
        "python",
        "python3: json, ssl, sqlite3",
        ("python3", "-c", "import json, ssl, sqlite3"),
        "usr/bin/python3",
    ),
    Workload("numpy", "python3: numpy", ("python3", "-c", "import numpy"), _NUMPY),
    Workload("perl", "perl: POSIX", ("perl", "-MPOSIX", "-e", "1"), "usr/bin/perl"),
    Workload("apt", "apt-get --version", ("apt-get", "--version"), "usr/bin/apt-get"),
    Workload("find", "find / -xdev", ("find", _ROOT, "-xdev"), guest=False),
    Workload(
        "read-all",
        "every file read",
        ("find", _ROOT, "-xdev", "-type", "f", "-exec", "cat", "{}", "+"),
        usual=False,
        guest=False,
    ),
)


def is_possible(workload: Workload, image: Path) -> bool:
    """Whether the tree `image` has what the workload runs."""
    return not workload.needs or any(image.glob(workload.needs))


def run(workload: Workload, tree: Path, *, chroot: bool) -> Ran:
    """Run it in `tree`; its output is taken away as fast as it comes.  Raises MountError where it fails."""
    root = "/" if chroot else str(tree)
    argv = [root if part == _ROOT else part for part in workload.argv]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["chroot", str(tree), *argv] if chroot else argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_ENVIRONMENT,
            cwd="/",
        )
        assert process.stdout is not None
        try:
            first = _drain(process.stdout.fileno())
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
        end = time.perf_counter()
        if status:
            errors.seek(0)
            said = (errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise MountError(f"{workload.name} ended with status {status}: {said}", hint="")
    return Ran(end if first is None else first, end)


def _drain(pipe: int) -> float | None:
    """Read to the end; the moment of the first byte."""
    buffer = bytearray(_PIECE)
    first: float | None = None
    while os.readv(pipe, [buffer]):
        if first is None:
            first = time.perf_counter()
    return first
