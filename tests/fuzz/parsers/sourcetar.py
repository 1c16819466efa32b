"""Archives that are packed: what becomes of any archive is a tree in which every name can stand."""

from __future__ import annotations

import gzip
import io
import tarfile

from tests.fuzz.parsers import tar
from zerofs.errors import SourceError
from zerofs.flist.model import Kind
from zerofs.pack.losses import Losses
from zerofs.pack.progress import Silent
from zerofs.pack.tar import TarSource
from zerofs.pack.tree import Node

MOST_CONTENT = 8 << 20  # bytes; an archive may hold a hole of any size, which is read as zeros


class _EnoughError(Exception):
    pass


class _Pipeline:
    """Counts the bytes of files."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, prints: list[bytes], plain: bytes) -> None:
        self.size += len(plain)
        if self.size > MOST_CONTENT:
            raise _EnoughError


def target(data: bytes) -> bool:
    """Whether it is taken for an archive."""
    losses = Losses("rocksdb")
    try:
        root = TarSource(io.BytesIO(data), "tar", losses).read(_Pipeline(), Silent())  # type: ignore[arg-type]
    except (SourceError, _EnoughError):
        return False
    pending = [root]
    while pending:
        node = pending.pop()
        for name, child in node.children.items():
            assert name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
            _check(child)
            pending.append(child)
    return True


def _check(node: Node) -> None:
    assert node.size >= 0
    assert 0 <= node.attributes.mode <= 0o7777
    assert 0 <= node.attributes.uid < 2**32 and 0 <= node.attributes.gid < 2**32
    assert 0 <= node.attributes.mtime < 2**32
    assert node.kind is Kind.DIR or not node.children


def samples() -> list[bytes]:
    return [
        *tar.samples()[:2],
        _tree(tarfile.GNU_FORMAT),
        _tree(tarfile.PAX_FORMAT),
        gzip.compress(_tree(tarfile.USTAR_FORMAT)),
    ]


def _tree(form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        kinds = {
            "d": tarfile.DIRTYPE,
            "d/link": tarfile.SYMTYPE,
            "d/null": tarfile.CHRTYPE,
            "d/sda": tarfile.BLKTYPE,
            "d/pipe": tarfile.FIFOTYPE,
            "file": tarfile.REGTYPE,
            "hard": tarfile.LNKTYPE,
        }
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "file" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.size = 5 if kind == tarfile.REGTYPE else 0
            member.mtime = 1_700_000_000
            archive.addfile(member, io.BytesIO(b"hello"))
    return out.getvalue()
