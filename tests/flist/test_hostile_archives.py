"""Archives made to harm are refused, each named by the reason; what only looks dangerous is not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest

from tests.flist.refusals import Cases, check_refused, file_of, registering, typed, unpacked_of, with_member
from tests.flist.samples import archive, members_of, read, write
from zerofs.errors import FlistCorruptError, FlistTooLargeError, FlistUnsafeError
from zerofs.flist import container
from zerofs.flist.source import open_source

CASES: Cases = {}
refused = registering(CASES)


@pytest.mark.parametrize("reason", CASES)
def test_should_fail(reason: str, tmp_path: Path) -> None:
    check_refused(*CASES[reason], tmp_path)


# -- archives made to harm -----------------------------------------------------------------


@refused(FlistUnsafeError)
def _absolute_member(directory: Path) -> Path:
    return with_member(directory, tarfile.TarInfo("/etc/cron.d/evil"))


@refused(FlistUnsafeError)
def _absolute_directory(directory: Path) -> Path:
    return with_member(directory, typed("/etc", tarfile.DIRTYPE))


@refused(FlistUnsafeError)
def _dotdot_member(directory: Path) -> Path:
    return with_member(directory, tarfile.TarInfo("../evil"))


@refused(FlistUnsafeError)
def _dotdot_in_the_middle(directory: Path) -> Path:
    return with_member(directory, tarfile.TarInfo("a/../../evil"))


@refused(FlistUnsafeError)
def _dotdot_directory(directory: Path) -> Path:
    return with_member(directory, typed("..", tarfile.DIRTYPE))


@refused(FlistUnsafeError)
def _symlink_member(directory: Path) -> Path:
    return with_member(directory, typed("CURRENT", tarfile.SYMTYPE, "/etc/passwd"))


@refused(FlistUnsafeError)
def _hard_link_member(directory: Path) -> Path:
    return with_member(directory, typed("CURRENT", tarfile.LNKTYPE, "flistdb.sqlite3"))


@refused(FlistUnsafeError)
def _device_member(directory: Path) -> Path:
    return with_member(directory, typed("sda", tarfile.BLKTYPE))


@refused(FlistUnsafeError)
def _character_device_member(directory: Path) -> Path:
    return with_member(directory, typed("mem", tarfile.CHRTYPE))


@refused(FlistUnsafeError)
def _fifo_member(directory: Path) -> Path:
    return with_member(directory, typed("router.yaml", tarfile.FIFOTYPE))


@refused(FlistTooLargeError)
def _too_many_members(directory: Path) -> Path:
    return archive(directory / "flist", [(f"f{n}", b"") for n in range(10_001)], "w")


@refused(FlistTooLargeError)
def _router_without_end(directory: Path) -> Path:
    return archive(directory / "flist", [("router.yaml", bytes(2 << 20))])


@refused(FlistTooLargeError)
def _extended_header_without_end(directory: Path) -> Path:
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 3 << 20
    return file_of(directory, gzip.compress(header.tobuf() + bytes(header.size)))


@refused(FlistCorruptError)
def _headers_nested_without_end(directory: Path) -> Path:
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME
    header.size = 1
    return file_of(directory, gzip.compress((header.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 5000))


@refused(FlistTooLargeError)
def _sparse_map_without_end(directory: Path) -> Path:
    member = tarfile.TarInfo("flistdb.sqlite3")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    data = b"1000000000\n" + b"1\n" * (2 << 20)
    member.size = len(data)
    return file_of(directory, gzip.compress(member.tobuf(tarfile.PAX_FORMAT) + data))


@refused(FlistUnsafeError)
def _sparse_member(directory: Path) -> Path:
    member = tarfile.TarInfo("flistdb.sqlite3")
    member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000"}
    return file_of(directory, gzip.compress(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)))


@refused(FlistCorruptError)
def _member_of_negative_size(directory: Path) -> Path:
    member = tarfile.TarInfo("note")
    member.size = -1024
    return file_of(directory, gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, cramjam.zstd.compress])
def test_zip_bomb(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    header = tarfile.TarInfo("flistdb.sqlite3")
    header.size = 16 << 20
    bomb = file_of(tmp_path, bytes(compress(header.tobuf() + bytes(header.size))))
    assert bomb.stat().st_size < 50_000
    with (
        open_source(str(bomb), workdir=tmp_path / "work", max_size=1 << 20) as source,
        pytest.raises(FlistTooLargeError, match="1048576 bytes"),
    ):
        source.reader()
    assert list((tmp_path / "work").iterdir()) == []


def test_plain_archive_over_the_bound(tmp_path: Path) -> None:
    flist = archive(tmp_path / "flist", [("flistdb.sqlite3", bytes(100_000))], "w")
    with (
        open_source(str(flist), workdir=tmp_path / "work", max_size=50_000) as source,
        pytest.raises(FlistTooLargeError),
    ):
        source.reader()


def test_log_of_an_unpacked_database_over_the_bound(tmp_path: Path) -> None:
    directory = unpacked_of(tmp_path, "rocksdb")
    (directory / "000099.log").write_bytes(bytes(100_000))
    with (
        open_source(str(directory), workdir=tmp_path / "work", max_size=50_000) as source,
        pytest.raises(FlistTooLargeError),
    ):
        source.reader()


# -- and what only looks dangerous ---------------------------------------------------------


@pytest.mark.parametrize("root", ["./", ".", "/", ""])
def test_the_root_member_is_skipped_however_it_is_spelt(tmp_path: Path, root: str) -> None:
    member = tarfile.TarInfo(root)
    member.type = tarfile.DIRTYPE
    right = write("sqlite", tmp_path / "right")
    flist = archive(tmp_path / "flist", [(member, b""), *members_of(right)])
    assert read(flist, tmp_path / "work") == read(right, tmp_path / "work")


def test_members_that_are_no_database_are_left_packed(tmp_path: Path) -> None:
    members = [
        ("LOCK", b""),
        ("LOG", b"x"),
        ("note.txt", b"x"),
        ("a/b", b"x"),
        (typed("a", tarfile.DIRTYPE), b""),
    ]
    flist = archive(tmp_path / "flist", [*members, *members_of(write("sqlite", tmp_path / "right"))])
    (tmp_path / "target").mkdir()
    with flist.open("rb") as file:
        container.unpack(
            file,
            container.Container.GZIP,
            tmp_path / "target",
            subject="flist",
            max_size=1 << 20,
            max_members=10,
        )
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["flistdb.sqlite3"]
