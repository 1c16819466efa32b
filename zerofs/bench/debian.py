"""A real image to mount: a minimal Debian or Ubuntu root with Python and numpy, built once and kept in a cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from zerofs.errors import ZerofsError

PACKAGES = ("python3", "python3-numpy")  # beyond the minimum; they are part of the image's name


class ImageUnavailableError(ZerofsError):
    """The image cannot be built here."""

    hint = "it takes root, mmdebstrap and a mirror"


class DebianRoot(NamedTuple):
    """The same tree twice."""

    tar: Path
    directory: Path


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise ImageUnavailableError("/etc/os-release names no release")


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
    part = root.tar.with_suffix(".part.tar")
    options = ["--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    done = subprocess.run(
        ["mmdebstrap", *options, codename, part, *_mirror(codename)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": "/var/tmp"},
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ImageUnavailableError(f"mmdebstrap could not reach a mirror ({last})")
    unpacked = root.directory.with_suffix(".part")
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    subprocess.run(["tar", "-C", unpacked, "--numeric-owner", "-xpf", part], check=True)
    unpacked.rename(root.directory)
    part.rename(root.tar)  # the last step: the tar's presence says that all is there


def debian_root(cache: Path) -> DebianRoot:
    """The root of this host's own release in `cache`, built there by whoever comes first.

    Raises ImageUnavailableError where it cannot be had.
    """
    if os.geteuid() != 0:
        raise ImageUnavailableError("unpacking an image takes root")
    if shutil.which("mmdebstrap") is None:
        raise ImageUnavailableError("mmdebstrap is not installed")
    codename = _codename()
    cache.mkdir(parents=True, exist_ok=True)
    name = "-".join((codename, *PACKAGES))
    root = DebianRoot(cache / f"{name}.tar", cache / name)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.tar.exists():
            shutil.rmtree(root.directory, ignore_errors=True)
            _build(root, codename)
    return root


def image_cache() -> Path:
    """``$ZEROFS_IMAGE_CACHE``, or ``zerofs-images`` in the user's cache directory."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ZEROFS_IMAGE_CACHE") or Path(user) / "zerofs-images")
