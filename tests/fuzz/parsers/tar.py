"""Archives of flists: nothing but the files of a database comes out, and not more than the bound."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile

import cramjam

from tests.fuzz.place import fresh_directory
from zerofs.errors import FlistError
from zerofs.flist.container import unpack
from zerofs.flist.layout import PROFILE_NAME, ROUTER_NAME, Container, container_of, is_database_file

MOST_SIZE, MOST_MEMBERS = 4 << 20, 500


def target(data: bytes) -> bool:
    """Whether it is taken for an archive."""
    with fresh_directory() as place, tempfile.TemporaryFile() as file:
        file.write(data)
        out = place / "out"
        out.mkdir()
        accepted = False
        try:
            container = container_of(data[:512], "flist")
            if container is not Container.SQLITE:
                bounds = {"max_size": MOST_SIZE, "max_members": MOST_MEMBERS}
                unpack(file, container, out, subject="flist", **bounds)
                accepted = True
        except FlistError as error:
            assert "\n" not in str(error)
        assert os.listdir(place) == ["out"]
        found = list(os.scandir(out))
        assert all(entry.is_file(follow_symlinks=False) for entry in found)
        assert all(
            is_database_file(entry.name) or entry.name in (ROUTER_NAME, PROFILE_NAME) for entry in found
        )
        assert sum(entry.stat().st_size for entry in found) <= MOST_SIZE
        return accepted


def samples() -> list[bytes]:
    plain = _archive()
    packers = (gzip.compress, bz2.compress, lzma.compress, lambda data: bytes(cramjam.zstd.compress(data)))
    return [plain, _archive(tarfile.PAX_FORMAT), *(packer(plain) for packer in packers)]


def _archive(form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        root = tarfile.TarInfo("./")
        root.type = tarfile.DIRTYPE
        tar.addfile(root)
        for name in ("CURRENT", "000003.log", "router.yaml", "a" * 120 + "/not-wanted", "zerofs.profile"):
            member = tarfile.TarInfo(name)
            member.size = 20
            member.pax_headers = {"mtime": "1700000000.5", "SCHILY.xattr.user.x": "y"}
            tar.addfile(member, io.BytesIO(b"x" * 20))
    return out.getvalue()
