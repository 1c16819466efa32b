"""A real image: a minimal Debian (or Ubuntu) root with python3, built once and kept outside the checkout."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class DebianRoot(NamedTuple):
    """The same tree twice."""

    tar: Path
    directory: Path


def cache_directory() -> Path:
    """``$ZEROFS_TEST_CACHE``, or ``zerofs-tests`` in the user's cache directory."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ZEROFS_TEST_CACHE") or Path(user) / "zerofs-tests")


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    pytest.skip("no Debian image: /etc/os-release names no release")


def _mirror(codename: str) -> list[str]:
    """The mirror that this host's own sources name for its release; empty for the distribution's default."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        release, component, uri = [*line.split(), "", "", ""][:3]
        if (release, component) == (codename, "main"):
            return [uri]
    return []


def _build(root: DebianRoot, codename: str) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3", codename]
    part = root.tar.with_suffix(".part.tar")
    done = subprocess.run(
        [*command, str(part), *_mirror(codename)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": "/var/tmp"},
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"no Debian image: mmdebstrap could not reach a mirror ({last})")
    unpacked = root.directory.with_suffix(".part")
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    subprocess.run(["tar", "-C", unpacked, "--numeric-owner", "-xpf", part], check=True)
    unpacked.rename(root.directory)
    part.rename(root.tar)  # the last step: the tar's presence says that all is there


def debian_root() -> DebianRoot:
    """The root of this host's own release, built on the first call; skips where it cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("no Debian image: unpacking one takes root")
    if shutil.which("mmdebstrap") is None:
        pytest.skip("no Debian image: mmdebstrap is not installed")
    codename = _codename()
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    root = DebianRoot(cache / f"{codename}.tar", cache / codename)
    with (cache / f"{codename}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.tar.exists():
            shutil.rmtree(root.directory, ignore_errors=True)
            _build(root, codename)
    return root
