"""Puts a finished flist where the user wants it: whole or not at all, and the same bytes each time.

Role: the last step of the writers.  Off the way of a read.  Stateless.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import gzip
import io
import os
import secrets
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from zerofs.errors import ZerofsError
from zerofs.flist.layout import ROUTER_NAME

_COMPRESSION = 6  # of gzip; the database's own blocks are compressed already


class Member(NamedTuple):
    """A file of the archive."""

    name: str
    path: Path


@contextmanager
def replacing(destination: Path) -> Iterator[IO[bytes]]:
    """A file that becomes `destination` when the block ends, and vanishes when it fails.

    What a killed process left of it goes first.  Raises ZerofsError where it cannot be written.
    """
    _sweep(destination)
    part = destination
    try:
        with _new_part(destination) as out:
            part = Path(out.name)
            yield out
            out.flush()
            os.fsync(out.fileno())
            part.rename(destination)
    except OSError as error:
        raise ZerofsError(
            f"cannot write {destination}: {error.strerror}", hint="check its permissions and the free space"
        ) from error
    finally:
        if part != destination:
            part.unlink(missing_ok=True)


def _new_part(destination: Path) -> IO[bytes]:
    """A file of a name of its own, locked as long as it is open."""
    while True:
        out = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.part").open("xb")
        with contextlib.suppress(OSError):  # a file system without locks: others cannot lock it either
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(out.fileno()).st_nlink:
            return out
        out.close()  # swept before it was locked


def _sweep(destination: Path) -> None:
    """Remove the parts of `destination` that nobody writes any more."""
    for part in destination.parent.glob(f".{glob.escape(destination.name)}.????????.part"):
        with contextlib.suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def write_archive(out: IO[bytes], members: Iterable[Member], router: bytes | None) -> None:
    """Write a tar.gz of `members`, and of `router` as router.yaml; it depends on nothing else."""
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for member in members:
            with member.path.open("rb") as file:
                tar.addfile(_header(member.name, os.fstat(file.fileno()).st_size), file)
        if router is not None:
            tar.addfile(_header(ROUTER_NAME, len(router)), io.BytesIO(router))


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o644
    header.uname = header.gname = "root"
    return header
