"""A disk that takes no more: one clear error, and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.flist.samples import FOLDER, PLAIN, write
from zerofs.flist.model import Directory, Entry, Kind
from zerofs.flist.writer import FORMATS

# a process whose files may not grow beyond 20,000 bytes: what a full disk does, without one
LIMITED = """
import resource, sys
from pathlib import Path
from zerofs.errors import ZerofsError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    main()
except ZerofsError as error:
    print(type(error).__name__, error.exit_code, str(error).count("\\n"))
"""
READING = """
def main():
    from zerofs.flist.source import open_source
    with open_source(sys.argv[1], workdir=Path(sys.argv[2])) as source:
        source.reader()
"""
WRITING = """
import os
from zerofs.flist.model import Attributes, ChunkRef, Directory, Entry, Kind
from zerofs.flist.writer import open_writer

def main():
    owner = Attributes(0o644, 0, 0, 0, 0)
    writer = open_writer(sys.argv[1], Path(sys.argv[2]) / "flist", workdir=Path(sys.argv[2]) / "work")
    try:
        chunk = [ChunkRef(os.urandom(32), os.urandom(32)) for n in range(2000)]
        files = [Entry(b"%d" % n, Kind.FILE, owner, 9, chunks=[chunk[n]]) for n in range(2000)]
        writer.add(b"", Directory(owner, files))
        writer.finish()
    except BaseException:
        writer.abort()
        raise
"""


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program + LIMITED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("format", ["rocksdb", "sqlite"])
def test_unpacking(tmp_path: Path, format: str) -> None:
    many = [Entry(b"%d" % number, Kind.FILE, PLAIN) for number in range(2000)]
    flist = write(format, tmp_path / "flist", {b"": Directory(FOLDER, many)})
    assert run(READING, str(flist), str(tmp_path / "work")) == "BackendError 6 0"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_writing(tmp_path: Path, format: str) -> None:
    kind, code, lines = run(WRITING, format, str(tmp_path)).split()
    assert (kind, code) in {("BackendError", "6"), ("ZerofsError", "1")}  # the database, or the destination
    assert lines == "0"
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert list((tmp_path / "work").iterdir()) == []
