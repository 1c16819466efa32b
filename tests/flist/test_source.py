"""Where flists come from: detection, digests, private copies, and what is left behind (nothing)."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flist.samples import FOLDER, PLAIN, TREE, archive, members_of, read, write
from zerofs.errors import BackendError, FlistNotFoundError, FlistTooLargeError
from zerofs.flist.model import Directory, Entry, Kind
from zerofs.flist.scratch import PREFIX, Scratch, sweep
from zerofs.flist.source import open_source
from zerofs.flist.writer import FORMATS

ROUTER = b"pools: {}\n"


def unpacked(flist: Path, target: Path) -> Path:
    target.mkdir()
    for name, data in members_of(flist):
        (target / str(name)).write_bytes(data)
    return target


def digest(flist: Path, workdir: Path) -> bytes:
    with open_source(str(flist), workdir=workdir) as source:
        return source.digest


# -- where ---------------------------------------------------------------------------------


def test_file_url(tmp_path: Path) -> None:
    flist = write("sqlite", tmp_path / "a name %41")
    assert read(flist.as_uri(), tmp_path / "work") == TREE
    assert read(f"file://localhost{flist.as_uri().removeprefix('file://')}", tmp_path / "work") == TREE
    with pytest.raises(FlistNotFoundError, match="other host"):
        open_source("file://elsewhere/flist", workdir=tmp_path / "work")


def test_path_through_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write("sqlite", tmp_path / "flist"))
    assert read(tmp_path / "link", tmp_path / "work") == TREE
    (tmp_path / "directory").symlink_to(unpacked(write("rocksdb", tmp_path / "r"), tmp_path / "unpacked"))
    assert read(tmp_path / "directory", tmp_path / "work") == TREE


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked(write("rocksdb", tmp_path / "flist"), tmp_path / "unpacked")
    monkeypatch.chdir(tmp_path)
    assert read(Path("unpacked"), Path("work")) == TREE


def test_bare_database_of_the_sqlite_generation(tmp_path: Path) -> None:
    directory = unpacked(write("sqlite", tmp_path / "flist"), tmp_path / "unpacked")
    assert read(directory / "flistdb.sqlite3", tmp_path / "work") == TREE


def test_working_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    flist = write("sqlite", tmp_path / "flist")
    with (
        open_source(str(flist), workdir=tmp_path / "file" / "work") as source,
        pytest.raises(BackendError, match="cannot unpack below"),
    ):
        source.reader()


# -- digests -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_digest_of_a_file_writes_nothing(tmp_path: Path, format: str) -> None:
    flist = write(format, tmp_path / "flist")
    shutil.copy(flist, tmp_path / "copy")
    assert digest(flist, tmp_path / "other") == digest(tmp_path / "copy", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (tmp_path / "copy").write_bytes(flist.read_bytes() + b"\0")
    assert digest(flist, tmp_path / "other") != digest(tmp_path / "copy", tmp_path / "other")


@pytest.mark.parametrize(
    "name", ["LOG", "LOCK", "LOG.old.1600000000", "IDENTITY", "rocksdict-config.json", "note"]
)
def test_digest_of_a_directory_ignores_what_is_no_database(tmp_path: Path, name: str) -> None:
    directory = unpacked(write("rocksdb", tmp_path / "flist"), tmp_path / "unpacked")
    before = digest(directory, tmp_path / "work")
    (directory / name).write_bytes(b"noise")
    assert digest(directory, tmp_path / "work") == before


@pytest.mark.parametrize("name", ["CURRENT", "000099.log", "000098.sst", "router.yaml"])
def test_digest_of_a_directory_covers_the_database_and_the_router(tmp_path: Path, name: str) -> None:
    directory = unpacked(write("rocksdb", tmp_path / "flist"), tmp_path / "unpacked")
    before = digest(directory, tmp_path / "work")
    with (directory / name).open("ab") as file:
        file.write(b"\n")
    if name == "CURRENT":
        (directory / name).write_bytes((directory / name).read_bytes().strip())
    assert digest(directory, tmp_path / "work") != before


# -- routers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["router.yaml", "./router.yaml"])
def test_router_of_an_archive(tmp_path: Path, name: str) -> None:
    members = members_of(write("sqlite", tmp_path / "right"))
    flist = archive(tmp_path / "flist", [*members, (name, ROUTER)])
    with open_source(str(flist), workdir=tmp_path / "work") as source:
        assert source.router == ROUTER


def test_router_below_the_top_is_none(tmp_path: Path) -> None:
    members = members_of(write("sqlite", tmp_path / "right"))
    flist = archive(tmp_path / "flist", [*members, ("etc/router.yaml", ROUTER)])
    with open_source(str(flist), workdir=tmp_path / "work") as source:
        assert source.router is None


@pytest.mark.parametrize("format", ["rocksdb", "sqlite"])
def test_router_of_a_directory(tmp_path: Path, format: str) -> None:
    directory = unpacked(write(format, tmp_path / "flist"), tmp_path / "unpacked")
    with open_source(str(directory), workdir=tmp_path / "work") as source:
        assert source.router is None
    (directory / "router.yaml").write_bytes(ROUTER)
    with open_source(str(directory), workdir=tmp_path / "work") as source:
        assert source.router == ROUTER
    (directory / "router.yaml").write_bytes(bytes(2 << 20))
    with open_source(str(directory), workdir=tmp_path / "work") as source, pytest.raises(FlistTooLargeError):
        _ = source.router


# -- databases that were not closed --------------------------------------------------------


def test_rocksdb_log_is_replayed_from_a_directory_that_stays_as_it_is(tmp_path: Path) -> None:
    directory = unpacked(write("rocksdb", tmp_path / "flist"), tmp_path / "unpacked")
    live = tmp_path / "live"
    program = """
import os, sys, rocksdict
flist = rocksdict.Rdict(sys.argv[1], rocksdict.Options(raw_mode=True))
source = rocksdict.Rdict(sys.argv[2], rocksdict.Options(raw_mode=True),
                         access_type=rocksdict.AccessType.read_only(False))
for key, value in source.items():
    flist[key] = value
os._exit(0)  # nothing is flushed: all records stand in the log
"""
    subprocess.run([sys.executable, "-c", program, str(live), str(directory)], check=True)
    assert not list(live.glob("*.sst"))
    before = {path.name: path.read_bytes() for path in live.iterdir()}
    assert read(live, tmp_path / "work") == TREE
    assert {path.name: path.read_bytes() for path in live.iterdir()} == before


def test_unreadable_to_write_but_not_to_read(tmp_path: Path) -> None:
    """Files of the user's directory are never opened for writing, even where that would be allowed."""
    directory = unpacked(write("rocksdb", tmp_path / "flist"), tmp_path / "unpacked")
    for path in directory.iterdir():
        path.chmod(0o444)
    directory.chmod(0o555)
    try:
        assert read(directory, tmp_path / "work") == TREE
    finally:
        directory.chmod(0o755)


@pytest.mark.parametrize("format", ["sqlite", "fl"])
def test_sqlite_log_beside_the_file_counts(tmp_path: Path, format: str) -> None:
    flist = write(format, tmp_path / "flist")
    if format == "sqlite":
        flist = unpacked(flist, tmp_path / "unpacked") / "flistdb.sqlite3"
    argument = flist.parent if format == "sqlite" else flist
    before = digest(argument, tmp_path / "work")
    program = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA wal_autocheckpoint = 0")
table = "entries" if sys.argv[2] == "sqlite" else "block"
connection.execute(f"DELETE FROM {table}")
connection.commit()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program, str(flist), format], check=True)
    beside = {path.name: path.read_bytes() for path in flist.parent.glob(f"{flist.name}*")}
    assert f"{flist.name}-wal" in beside
    assert digest(argument, tmp_path / "work") != before
    if format == "fl":
        assert not any(entry.chunks for entry in read(argument, tmp_path / "work")[b""].entries)
    else:
        from zerofs.errors import FlistCorruptError

        with pytest.raises(FlistCorruptError, match="root"):
            read(argument, tmp_path / "work")
    assert {path.name: path.read_bytes() for path in flist.parent.glob(f"{flist.name}*")} == beside


def test_sqlite_in_wal_mode_is_read_without_leaving_files(tmp_path: Path) -> None:
    flist = write("fl", tmp_path / "flist")
    connection = sqlite3.connect(flist)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert flist.read_bytes()[18] == 2
    assert read(flist, tmp_path / "work") == TREE
    assert {path.name for path in tmp_path.iterdir()} == {"flist", "work"}


# -- private directories -------------------------------------------------------------------


def test_what_a_killed_process_unpacked_is_swept(tmp_path: Path) -> None:
    flist = write("sqlite", tmp_path / "flist")
    program = """
import os, signal, sys
from pathlib import Path
from zerofs.flist.source import open_source
source = open_source(sys.argv[1], workdir=Path(sys.argv[2]))
source.reader()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(flist), str(tmp_path / "work")])
    assert ended.returncode == -signal.SIGKILL
    (orphan,) = (tmp_path / "work").iterdir()
    assert (orphan / "flistdb.sqlite3").exists()
    with open_source(str(flist), workdir=tmp_path / "work") as source:
        source.reader().close()
        assert not orphan.exists()
    assert list((tmp_path / "work").iterdir()) == []


def test_what_is_in_use_is_not_swept(tmp_path: Path) -> None:
    first, second = Scratch(tmp_path), Scratch(tmp_path)
    assert sweep(tmp_path) == 0
    assert first.path.is_dir() and second.path.is_dir() and first.path != second.path
    first.close()
    first.close()
    assert [path.name for path in tmp_path.iterdir()] == [second.path.name]
    second.close()


def test_sweeping_leaves_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "target")
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}orphan").mkdir()
    assert sweep(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        "precious",
        "target",
        f"{PREFIX}link",
        f"{PREFIX}file",
    }


def test_a_directory_swept_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    swept: list[Path] = []

    def flock(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            swept[0].rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    scratch = Scratch(tmp_path)
    assert scratch.path.is_dir() and scratch.path != swept[0]
    scratch.close()


def test_two_sources_of_one_flist_at_once(tmp_path: Path) -> None:
    tree = {b"": Directory(FOLDER, [Entry(b"a", Kind.FILE, PLAIN)])}
    flist = write("rocksdb", tmp_path / "flist", tree)
    with (
        open_source(str(flist), workdir=tmp_path / "work") as first,
        open_source(str(flist), workdir=tmp_path / "work") as second,
    ):
        readers = first.reader(), second.reader()
        directories = [reader.directory(reader.root()) for reader in readers]
        assert directories[0] == directories[1] is not None
        for reader in readers:
            reader.close()
