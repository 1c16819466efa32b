"""RocksDB directories: which files count, what CURRENT says, and what becomes of damaged ones.

An input is files one after the other: the length of a name, the name, the length of the content, the content.
"""

from __future__ import annotations

import os
from functools import cache

from tests.flist.samples import members_of, write
from tests.fuzz.parsers import sqlite
from tests.fuzz.place import Pieces, fresh_directory


def target(data: bytes) -> None:
    pieces = Pieces(data)
    with fresh_directory() as place:
        (place / "flist").mkdir()
        made: dict[bytes, bytes] = {}
        while pieces and len(made) < 20:
            name = pieces.take(pieces.number(1) % 64)
            content = pieces.take(min(pieces.number(3), len(data)))
            if name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name:
                made[name] = content
        for name, content in made.items():
            with open(os.fsencode(place / "flist") + b"/" + name, "wb") as file:
                file.write(content)
        sqlite.mount(place / "flist", place / "work")
        assert set(os.listdir(os.fsencode(place / "flist"))) == set(made)  # nothing is written beside them
        assert not (place / "work").exists() or os.listdir(place / "work") == []


@cache
def samples() -> list[bytes]:
    with fresh_directory() as place:
        members = members_of(write("rocksdb", place / "flist"))
    files = [(getattr(member, "name", str(member)).encode(), data) for member, data in members]
    whole = b"".join(
        bytes([len(name)]) + name + len(data).to_bytes(3, "little") + data for name, data in files
    )
    return [whole]
