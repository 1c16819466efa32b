"""Lays an access profile beside the database in a flist's archive.

Role: `zerofs profile add`.  The archive is copied member by member, compressed as it was; readers that do not know
the new member pass over it.  The database's bytes stay as they are, and so does the content hash.  Stateless.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from pathlib import Path
from typing import IO

from zerofs.errors import FlistCorruptError, FlistNotFoundError, UsageError
from zerofs.flist.archive import replacing
from zerofs.flist.layout import PROFILE_NAME, Container, container_of

_MODES = {Container.GZIP: "gz", Container.BZIP2: "bz2", Container.XZ: "xz", Container.TAR: ""}


def add_profile(flist: Path, profile: bytes, destination: Path) -> None:
    """Write `flist` with `profile` in it as `destination`, which may be the same file.

    Raises UsageError for a flist without an archive, FlistError for one that cannot be read.
    """
    try:
        with flist.open("rb") as source:
            container = container_of(source.read(512), str(flist))
            if container not in _MODES:
                raise UsageError(
                    f"{flist} is no tar that could hold a profile",
                    hint="a bare .fl cannot; ship it beside it",
                )
            source.seek(0)
            with replacing(destination) as out:
                _copy(source, out, _MODES[container], profile)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FlistNotFoundError(f"there is no file {flist}", hint="name the flist's archive") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FlistCorruptError(f"{flist}: the archive is damaged: {error}") from error


def _copy(source: IO[bytes], out: IO[bytes], compression: str, profile: bytes) -> None:
    with (
        tarfile.open(fileobj=source, mode=f"r|{compression}") as old,  # type: ignore[call-overload]
        tarfile.open(fileobj=out, mode=f"w|{compression}", format=tarfile.PAX_FORMAT) as new,  # type: ignore[call-overload]
    ):
        for member in old:
            if member.name.removeprefix("./") != PROFILE_NAME:
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
        header = tarfile.TarInfo(PROFILE_NAME)
        header.size, header.mode = len(profile), 0o644
        new.addfile(header, io.BytesIO(profile))
