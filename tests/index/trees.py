"""Small trees in the shape of a `FlistReader`, and what an index says of them, both as plain data."""

from __future__ import annotations

from zerofs.flist.index import MISSING, Index
from zerofs.flist.model import CHUNK_SIZE, Attributes, ChunkRef, Directory, Entry, Kind, Route

Tree = dict[str, object]


def file(
    content: str = "", *, size: int | None = None, mode: int = 0o644, chunks: int | None = None
) -> Entry:
    """A file whose chunks are named after `content`."""
    size = len(content) if size is None else size
    count = -(-size // CHUNK_SIZE) if chunks is None else chunks
    refs = [ChunkRef(f"id-{content}-{n}".encode(), f"key-{content}-{n}".encode()) for n in range(count)]
    return Entry(b"", Kind.FILE, Attributes(mode, 1, 2, 3, 4), size, chunks=refs)


def link(target: str) -> Entry:
    return Entry(b"", Kind.LINK, Attributes(0o777, 0, 0, 5, 6), len(target), target=target.encode())


def device(kind: Kind, major: int, minor: int) -> Entry:
    return Entry(b"", kind, Attributes(0o600, 0, 0, 7, 8), device=(major, minor))


class TreeReader:
    """Reads a nested dict: names lead to entries or to further dicts; None is a directory without record."""

    format = "tree"
    names: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, tree: Tree | None, mode: int = 0o755) -> None:
        self._tree = tree
        self._mode = mode

    def root(self) -> bytes:
        return b""

    def directory(self, key: bytes) -> Directory | None:
        found: object = self._tree
        for name in filter(None, key.decode().split("/")):
            assert isinstance(found, dict)
            found = found[name]
        if found is None:
            return None
        assert isinstance(found, dict)
        attributes = Attributes(self._mode, 0, 0, 100, 200)
        entries = []
        for name, child in found.items():
            if isinstance(child, Entry):
                entries.append(child._replace(name=name.encode()))
            else:
                below = f"{key.decode()}/{name}".lstrip("/").encode()
                entries.append(Entry(name.encode(), Kind.DIR, Attributes(0, 9, 9, 9, 9), key=below))
        return Directory(attributes, entries)

    def routes(self) -> tuple[Route, ...]:
        return ()

    def close(self) -> None:
        pass


def listing(index: Index) -> dict[str, tuple[object, ...]]:
    """Path → what the index says there, free of row numbers."""
    found: dict[str, tuple[object, ...]] = {}
    for path, row in index.walk():
        node = index.node(row)
        detail: object = None
        if node.kind is Kind.LINK:
            detail = index.target(row)
        elif node.kind is Kind.FILE:
            detail = [index.chunk(number)[:2] for number in index.refs(row)]
        elif node.kind is Kind.DIR:
            detail = "missing" if node.length == MISSING else node.length
        found[path.decode()] = (node.kind, node.attributes, node.size, node.nlink, node.rdev, detail)
    return found
