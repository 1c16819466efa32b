"""SQLite files of both generations: an error, or a tree that can be mounted; nothing beside the file changes."""

from __future__ import annotations

import os
from functools import cache

from tests.flist.samples import members_of, write
from tests.fuzz.place import fresh_directory
from zerofs.errors import FlistError
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index
from zerofs.flist.source import open_source


def target(data: bytes) -> None:
    with fresh_directory() as place:
        (place / "flist").write_bytes(data)
        mount(place / "flist", place / "work")
        assert (place / "flist").read_bytes() == data
        assert set(os.listdir(place)) <= {"flist", "work"}
        assert not (place / "work").exists() or os.listdir(place / "work") == []


def mount(path: os.PathLike[str], work: os.PathLike[str]) -> None:
    """As far as `load_flist` gets, bounded to what a fuzzer has time for."""
    from pathlib import Path

    try:
        with open_source(os.fspath(path), workdir=Path(work), max_size=8 << 20) as source:
            reader = source.reader()
            try:
                tables = compile_flist(reader)
                reader.routes()
            finally:
                reader.close()
    except FlistError as error:
        assert "\n" not in str(error)
        return
    index = Index.anonymous(tables)
    assert len(list(index.walk())) == len(index)


@cache
def samples() -> list[bytes]:
    with fresh_directory() as place:
        fungi = write("fl", place / "fungi").read_bytes()
        members = {str(name): data for name, data in _named(place)}
        return [fungi, members["flistdb.sqlite3"]]


def _named(place: os.PathLike[str]) -> list[tuple[str, bytes]]:
    from pathlib import Path

    found = members_of(write("sqlite", Path(place) / "sqlite"))
    return [(getattr(member, "name", str(member)), data) for member, data in found]
