"""Trees with every kind of entry, and what a reader or a damaged flist makes of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import capnp

from zerofs.flist.model import CHUNK_SIZE, Attributes, ChunkRef, Directory, Entry, FlistReader, Kind, Route
from zerofs.flist.source import open_source
from zerofs.flist.writer import open_writer

SCHEMA: Any = capnp.load(str(Path(__file__).parents[2] / "zerofs" / "flist" / "flist.capnp"))

PLAIN = Attributes(0o644, 0, 0, 1_700_000_000, 1_700_000_001)
FOLDER = PLAIN._replace(mode=0o755)
CHUNK = ChunkRef(b"i" * 32, b"k" * 32)

TREE: dict[bytes, Directory] = {
    b"": Directory(
        FOLDER,
        [
            Entry(b"bin", Kind.DIR, FOLDER, 4096),
            Entry(b"empty", Kind.FILE, PLAIN),
            Entry(b"big", Kind.FILE, PLAIN, CHUNK_SIZE * 2 + 1, chunks=(CHUNK, CHUNK, ChunkRef(b"x", b"y"))),
            Entry(b"short of chunks", Kind.FILE, PLAIN, CHUNK_SIZE + 1, chunks=(CHUNK,)),
            Entry(b"no UTF-8 \xff\xfe", Kind.FILE, PLAIN, 1, chunks=(CHUNK,)),
            Entry("grün".encode(), Kind.LINK, PLAIN._replace(mode=0o777), 6, target=b"bin/\xff\xfe"),
            Entry(b"pipe", Kind.FIFO, PLAIN),
            Entry(b"socket", Kind.SOCKET, PLAIN),
            Entry(b"disk", Kind.BLOCK, PLAIN._replace(mode=0o660, gid=6), device=(259, 1048575)),
            Entry(b"null", Kind.CHARDEV, PLAIN._replace(mode=0o666), device=(1, 3)),
            Entry(b"n" * 255, Kind.FILE, PLAIN),
        ],
    ),
    b"bin": Directory(
        FOLDER._replace(mode=0o3777, uid=4_294_967_294, gid=70_000),
        [
            Entry(
                b"su", Kind.FILE, PLAIN._replace(mode=0o6755, mtime=0, ctime=2**32 - 1), 3, chunks=(CHUNK,)
            ),
            Entry(b"deep", Kind.DIR, FOLDER, 4096),
        ],
    ),
    b"bin/deep": Directory(FOLDER._replace(mode=0), []),
}

KIND_NAMES = {
    Kind.DIR: "dir",
    Kind.FILE: "file",
    Kind.LINK: "link",
    Kind.FIFO: "fifo",
    Kind.CHARDEV: "chardev",
    Kind.BLOCK: "block",
    Kind.SOCKET: "socket",
}


def write(
    format: str,
    destination: Path,
    tree: dict[bytes, Directory] = TREE,
    router: bytes | None = None,
    routes: Iterable[Route] = (),
) -> Path:
    writer = open_writer(format, destination, workdir=destination.parent / "work")
    for path, directory in tree.items():
        writer.add(path, directory)
    writer.finish(router, routes)
    return destination


def read(argument: Path | str, workdir: Path) -> dict[bytes, Directory]:
    """Every directory of a flist by its path, as far as formats agree."""
    with open_source(str(argument), workdir=workdir) as source:
        reader = source.reader()
        try:
            return dict(walk(reader))
        finally:
            reader.close()


def walk(reader: FlistReader) -> Iterator[tuple[bytes, Directory]]:
    pending = [(b"", reader.root())]
    while pending:
        path, key = pending.pop(0)
        directory = reader.directory(key)
        assert directory is not None, path
        for entry in directory.entries:
            if entry.kind == Kind.DIR:
                pending.append((path + b"/" + entry.name if path else entry.name, entry.key))
        yield path, directory._replace(entries=[_comparable(entry) for entry in directory.entries])


def _comparable(entry: Entry) -> Entry:
    """Without what formats differ in: keys, and the attributes that a parent repeats of a directory."""
    return entry._replace(key=b"", attributes=FOLDER) if entry.kind == Kind.DIR else entry


def listing(tree: dict[bytes, Directory]) -> list[dict[str, object]]:
    """The rows of a golden manifest, as far as metadata tells them."""
    rows = {b"": _row(b".", Entry(b"", Kind.DIR, tree[b""].attributes))}
    for path, directory in tree.items():
        for entry in directory.entries:
            name = path + b"/" + entry.name if path else entry.name
            if entry.kind == Kind.DIR:
                entry = entry._replace(attributes=tree[name].attributes)
            rows[name] = _row(name, entry)
    return [rows[name] for name in sorted(rows, key=lambda name: name.split(b"/"))]


def _row(name: bytes, entry: Entry) -> dict[str, object]:
    attributes = entry.attributes
    row: dict[str, object] = {
        "path": name.decode("utf-8", "surrogateescape"),
        "kind": KIND_NAMES[entry.kind],
        "mode": f"{attributes.mode:04o}",
        "uid": attributes.uid,
        "gid": attributes.gid,
        "mtime": attributes.mtime,
    }
    if entry.kind == Kind.FILE:
        row["size"] = entry.size
    elif entry.kind == Kind.LINK:
        row["target"] = entry.target.decode("utf-8", "surrogateescape")
    elif entry.kind in (Kind.CHARDEV, Kind.BLOCK):
        row["rdev"] = ",".join(map(str, entry.device))
    return row


def manifest(lines: Iterable[str]) -> list[dict[str, object]]:
    """A golden manifest without the hashes, which only chunks tell."""
    rows = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "sha256"} for row in rows]


# -- flists by hand ------------------------------------------------------------------------


def key_of(path: bytes, size: int = 16) -> str:
    return hashlib.blake2b(path, digest_size=size).hexdigest()


def sqlite_directory(directory: Path, records: dict[str, bytes]) -> Path:
    """An unpacked flist of the SQLite generation with these records."""
    import sqlite3

    directory.mkdir(exist_ok=True)
    connection = sqlite3.connect(directory / "flistdb.sqlite3")
    connection.execute("CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB)")
    connection.executemany("INSERT INTO entries VALUES (?, ?)", records.items())
    connection.commit()
    connection.close()
    return directory


def archive(path: Path, members: Iterable[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def members_of(flist: Path) -> list[tuple[tarfile.TarInfo | str, bytes]]:
    """The files in a flist's archive."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(flist.read_bytes()))) as tar:
        found: list[tuple[tarfile.TarInfo | str, bytes]] = []
        for member in tar:
            data = tar.extractfile(member)
            if data is not None:
                found.append((member.name.removeprefix("./"), data.read()))
        return found
