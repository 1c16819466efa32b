"""The tree of a flist, written into a directory.

Role: `zerofs unpack`.  Names and directories first, then the content in the threads of a pool, then owners,
modes and times, children before their directory.  While it runs directories are 0700 and files 0600.

The flist comes from outside and the destination may hold links: every step opens one name below an open
directory and follows nothing, so nothing is written elsewhere.  If it fails in a directory that was
empty, what was written is removed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zerofs.errors import DestinationError, FlistCorruptError, FlistUnsafeError
from zerofs.flist.index import MISSING, Index, Node
from zerofs.flist.model import Kind
from zerofs.pack.attributes import set_attributes
from zerofs.pack.contents import Contents, Piece, cut, pieces
from zerofs.pack.losses import EXAMPLES, Count
from zerofs.pack.nofollow import LIST, joined, opened
from zerofs.pack.pool import Pool
from zerofs.pack.progress import Progress

BATCH_BYTES = 4 << 20
BATCH_PIECES = 256
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Unpacked:
    """What a run did, and what it was not permitted to do."""

    entries: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    size: int = 0  # bytes of all files
    owners: Count = field(default_factory=lambda: Count(0, []))  # paths that kept the caller's owner
    devices: Count = field(default_factory=lambda: Count(0, []))  # paths that are missing


class _Place(NamedTuple):
    """A piece of a file, and where the file stands."""

    directory: bytes
    name: bytes
    piece: Piece


class Unpacker:
    """Writes `index` into `destination`; `contents` reads the chunks.

    `force` permits a destination that is not empty: files of the flist take the place of what stands
    there under their name, directories are merged, everything else stays.
    """

    def __init__(
        self,
        index: Index,
        contents: Contents,
        destination: Path,
        progress: Progress,
        *,
        workers: int,
        force: bool = False,
    ) -> None:
        self._index = index
        self._contents = contents
        self._destination = destination
        self._progress = progress
        self._workers = workers
        self._force = force
        self._done = Unpacked()
        self._directories: list[tuple[bytes, int]] = []  # (path, row), parents first
        self._root = -1  # descriptor of the destination

    def run(self) -> Unpacked:
        """Raises DestinationError, FlistError, or what keeps a chunk from being read."""
        with self._opened_destination():
            self._make_tree()
            self._progress.expect(files=self._done.entries[Kind.FILE], size=self._done.size)
            with Pool(self._workers) as pool:
                for batch in self._batches():
                    pool.submit(lambda batch=batch: self._write(batch))  # type: ignore[misc]
            set_attributes(self._index, self._root, self._directories, self._not_owned)
        return self._done

    @contextmanager
    def _opened_destination(self) -> Iterator[None]:
        path = self._destination
        with ExitStack() as stack:
            stack.enter_context(self._explained())
            is_new = not path.exists()
            if is_new:
                path.mkdir(0o700)
            elif not path.is_dir():
                raise DestinationError(f"{path}: is not a directory")
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, self._root)
            was_empty = not os.listdir(self._root)  # noqa: PTH208 - a descriptor
            if not was_empty and not self._force:
                raise DestinationError(f"{path}: is not empty", hint="--force writes into it all the same")
            try:
                yield
            except BaseException:
                if was_empty:
                    self._remove_all()
                    if is_new:
                        path.rmdir()
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Names are relative to descriptors, so they tell what, if not where.
            name = _shown(error.filename) + ": " if isinstance(error.filename, bytes) else ""
            raise DestinationError(f"{self._destination}: {name}{error.strerror or error}") from error

    # -- names

    def _make_tree(self) -> None:
        self._done.entries[Kind.DIR] = 1
        pending = [(b"", 0)]
        while pending:
            path, row = pending.pop()
            self._directories.append((path, row))
            if self._index.node(row).length == MISSING:
                raise FlistCorruptError(f"{_shown(path)}: the flist has no record of this directory")
            with opened(self._root, path) as fd:
                for name, child in self._index.children(row):
                    _check_name(path, name)
                    node = self._index.node(child)
                    self._done.entries[node.kind] += 1
                    self._make(fd, path, name, child, node)
                    if node.kind is Kind.DIR:
                        pending.append((joined(path, name), child))

    def _make(self, fd: int, path: bytes, name: bytes, row: int, node: Node) -> None:
        if self._force and self._clear(fd, name, node.kind):
            return
        if node.kind is Kind.DIR:
            os.mkdir(name, 0o700, dir_fd=fd)
        elif node.kind is Kind.LINK:
            os.symlink(self._index.target(row), name, dir_fd=fd)
        elif node.kind is Kind.FILE:
            self._done.size += node.size
            file = os.open(name, _CREATE, 0o600, dir_fd=fd)
            try:
                os.ftruncate(file, node.size)
            finally:
                os.close(file)
        else:
            self._make_special(fd, path, name, node)

    def _make_special(self, fd: int, path: bytes, name: bytes, node: Node) -> None:
        try:
            os.mknod(name, node.kind | 0o600, os.makedev(*node.device), dir_fd=fd)
        except PermissionError:
            self._done.entries[node.kind] -= 1
            self._done.devices = _counted(self._done.devices, joined(path, name))

    def _not_owned(self, path: bytes) -> None:
        self._done.owners = _counted(self._done.owners, path)

    def _clear(self, fd: int, name: bytes, kind: Kind) -> bool:
        """Make room for `name`; returns whether the directory that is wanted is there."""
        try:
            there = stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
        if there == stat.S_IFDIR:
            if kind is not Kind.DIR:
                raise DestinationError(f"{self._destination / os.fsdecode(name)}: a directory is in the way")
            return True
        os.unlink(name, dir_fd=fd)
        return False

    # -- content

    def _batches(self) -> Iterator[list[_Place]]:
        batch: list[_Place] = []
        size = 0
        for place in self._places():
            batch.append(place)
            size += place.piece.size
            if size >= BATCH_BYTES or len(batch) >= BATCH_PIECES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _places(self) -> Iterator[_Place]:
        for path, row in self._directories:
            for name, child in self._index.children(row):
                if self._index.node(child).kind is Kind.FILE:
                    for piece in pieces(self._index, child, _shown(joined(path, name))):
                        yield _Place(path, name, piece)
                    self._progress.advance(files=1)

    def _write(self, batch: Sequence[_Place]) -> None:
        contents = self._contents.read([self._index.chunk(place.piece.chunk) for place in batch])
        for place, content in zip(batch, contents, strict=True):
            data = cut(place.piece, content, _shown(joined(place.directory, place.name)))
            if content.count(0) != len(content):  # else it stays a hole
                with opened(self._root, place.directory) as fd:
                    file = os.open(place.name, _WRITE, dir_fd=fd)
                    try:
                        _write_all(file, data, place.piece.offset)
                    finally:
                        os.close(file)
            self._progress.advance(size=place.piece.size)

    # -- the end of a run that failed

    def _remove_all(self) -> None:
        for path, _ in reversed(self._directories):
            with opened(self._root, path, LIST) as fd:
                for name in os.listdir(fd):  # noqa: PTH208 - a descriptor
                    if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                        os.rmdir(name, dir_fd=fd)
                    else:
                        os.unlink(name, dir_fd=fd)


def _check_name(path: bytes, name: bytes) -> None:
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise FlistUnsafeError(f"{_shown(path)}: holds the name {_shown(name)}")


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data = data[written:]
        offset += written


def _counted(count: Count, path: bytes) -> Count:
    examples = count.examples if len(count.examples) >= EXAMPLES else [*count.examples, path]
    return Count(count.number + 1, examples)


def _shown(path: bytes) -> str:
    return ascii(path.decode("utf-8", "surrogateescape"))
