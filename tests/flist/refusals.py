"""Flists that must be refused: what refusing one means, and how they are made.

A test module has a table of cases, each named by the reason, and makes each of them once (`check_refused`).
"""

from __future__ import annotations

import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flist.samples import archive, members_of, read, write
from zerofs.errors import FlistError

Maker = Callable[[Path], Path]
Cases = dict[str, tuple[type[FlistError], Maker]]


def registering(cases: Cases) -> Callable[[type[FlistError]], Callable[[Maker], Maker]]:
    """A decorator for what makes a flist, with the error that it is refused with; the case has the function's name."""

    def refused(error: type[FlistError]) -> Callable[[Maker], Maker]:
        def register(maker: Maker) -> Maker:
            cases[maker.__name__.strip("_").replace("_", "-")] = (error, maker)
            return maker

        return register

    return refused


def check_refused(error: type[FlistError], maker: Maker, directory: Path) -> None:
    """It is refused with this very error, in one line, and nothing is left behind."""
    (directory / "made").mkdir()
    flist = maker(directory / "made")
    before = _everything_below(directory)
    with pytest.raises(FlistError) as caught:
        read(flist, directory / "work")
    assert type(caught.value) is error, caught.value
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert _everything_below(directory) - {"work"} == before
    assert not (directory / "work").exists() or not any((directory / "work").iterdir())


def _everything_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def file_of(directory: Path, content: bytes | bytearray) -> Path:
    path = directory / "flist"
    path.write_bytes(content)
    return path


def with_member(directory: Path, member: tarfile.TarInfo) -> Path:
    members = members_of(write("sqlite", directory / "right"))
    return archive(directory / "flist", [*members, (member, b"evil" if member.isreg() else b"")])


def typed(name: str, type: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type, target
    return member


def unpacked_of(directory: Path, format: str) -> Path:
    target = directory / "unpacked"
    target.mkdir()
    for name, data in members_of(write(format, directory / "right")):
        (target / str(name)).write_bytes(data)
    return target


def database_of(directory: Path, *statements: str) -> Path:
    connection = sqlite3.connect(directory / "flist")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return directory / "flist"
