"""A directory as the source of a flist.

Role: :class:`DirectorySource` scans the whole tree first (so that the work ahead is known, and nothing
that the run itself writes is seen), then reads the files.  Nothing is reached through a symbolic link,
however the tree changes meanwhile: every step opens one name below an open directory.

A file that changes while it is read is read again, and refused when it keeps changing: what a flist
says of a file is what the file held between two equal `fstat`.  One thread, no locks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from zerofs.errors import SourceChangedError, SourceError
from zerofs.flist.model import CHUNK_SIZE, DIRECTORY_SIZE, Kind
from zerofs.pack.losses import SECOND, Loss, Losses
from zerofs.pack.nofollow import LIST, STEP, joined, opened
from zerofs.pack.pipeline import Pipeline
from zerofs.pack.progress import Progress
from zerofs.pack.tree import Node, walk

ATTEMPTS = 3  # readings of a file that keeps changing
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Identity = tuple[int, int]  # st_dev, st_ino


class DirectorySource:
    """The tree below `root`.

    `leave_out` holds paths that are not part of it although they may lie there: the flist that is being
    written, the directory of the store.  `one_file_system` packs a mount point as an empty directory.
    """

    def __init__(
        self, root: Path, losses: Losses, *, leave_out: tuple[Path, ...] = (), one_file_system: bool = False
    ) -> None:
        self._root = root
        self._losses = losses
        self._one_file_system = one_file_system
        self._leave_out = {place for path in leave_out if (place := _place(path)) is not None}
        self._linked: dict[Identity, Node] = {}

    def read(self, pipeline: Pipeline, progress: Progress) -> Node:
        """The tree with all attributes; the content of its files goes to `pipeline`.

        Raises SourceError for what cannot be read, SourceChangedError for what does not hold still.
        """
        root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            root = self._scan(root_fd, progress)
            self._read_files(root_fd, root, pipeline, progress)
        finally:
            os.close(root_fd)
        return root

    # -- metadata

    def _scan(self, root_fd: int, progress: Progress) -> Node:
        status = os.fstat(root_fd)
        root = self._node(b"", root_fd, ".", status)
        pending = [(b"", root)]
        files = size = 0
        while pending:
            path, node = pending.pop()
            with self._opened(root_fd, path, LIST) as fd:
                self._scan_directory(fd, path, node, status.st_dev)
            for name, child in node.children.items():
                if child.kind is Kind.DIR:
                    pending.append((joined(path, name), child))
                elif child.kind is Kind.FILE:
                    files += 1
                    size += child.size
            progress.expect(files=files, size=size)
        return root

    def _scan_directory(self, fd: int, path: bytes, node: Node, device: int) -> None:
        own = os.fstat(fd)
        if self._one_file_system and own.st_dev != device:
            return
        with self._explained(path):
            names = sorted(os.listdir(fd))
        for text in names:
            name = os.fsencode(text)
            if (own.st_dev, own.st_ino, name) in self._leave_out:
                continue
            try:
                status = os.stat(text, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since the listing: the tree is as if it had never been there
            node.children[name] = self._node(joined(path, name), fd, text, status)

    def _node(self, path: bytes, fd: int, name: str, status: os.stat_result) -> Node:
        identity = (status.st_dev, status.st_ino)
        is_directory = stat.S_ISDIR(status.st_mode)
        if not is_directory and identity in self._linked:
            self._losses.add(Loss.HARD_LINK, path)
            return self._linked[identity]
        kind = Kind(stat.S_IFMT(status.st_mode))
        target = _read_link(path, name, fd) if kind is Kind.LINK else b""
        size = {Kind.DIR: DIRECTORY_SIZE, Kind.FILE: status.st_size, Kind.LINK: len(target)}.get(kind, 0)
        node = Node(
            kind,
            self._losses.attributes(*_attributes(status)),
            size=size,
            target=target,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
        )
        self._count(path, fd, name, status, target)
        if not is_directory and status.st_nlink > 1:
            self._linked[identity] = node
        return node

    def _count(self, path: bytes, fd: int, name: str, status: os.stat_result, target: bytes) -> None:
        losses = self._losses
        _, uid, gid, mtime, ctime = _attributes(status)
        losses.check_owner(path, uid, gid)
        losses.check_times(path, mtime, ctime, subsecond=bool(status.st_mtime_ns % SECOND))
        losses.check_text(path, os.fsencode(name), target)
        losses.check_xattrs(path, _xattrs(fd, name))
        if stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size:
            losses.add(Loss.SPARSE, path)

    # -- content

    def _read_files(self, root_fd: int, root: Node, pipeline: Pipeline, progress: Progress) -> None:
        done: set[int] = set()  # nodes with several names, by identity: read once
        for path, node in walk(root):
            files = [(name, child) for name, child in node.children.items() if child.kind is Kind.FILE]
            if not files:
                continue
            with self._opened(root_fd, path, STEP) as fd:
                for name, child in files:
                    if id(child) not in done:
                        self._read_file(fd, name, joined(path, name), child, pipeline, progress)
                    done.add(id(child))
                    progress.advance(files=1)

    def _read_file(
        self, fd: int, name: bytes, path: bytes, node: Node, pipeline: Pipeline, progress: Progress
    ) -> None:
        for _ in range(ATTEMPTS):
            with self._opened_file(fd, name, path) as file:
                before = os.fstat(file)
                if not stat.S_ISREG(before.st_mode):
                    raise SourceChangedError(f"{self._shown(path)}: is no longer a file")
                prints, size = self._read_chunks(file, path, before.st_size, pipeline, progress)
                after = os.fstat(file)
            if size == before.st_size and _same(before, after):
                node.attributes = self._losses.attributes(*_attributes(after))
                node.size = size
                node.prints = prints
                return
        raise SourceChangedError(f"{self._shown(path)}: keeps changing while it is read")

    def _read_chunks(
        self, file: int, path: bytes, size: int, pipeline: Pipeline, progress: Progress
    ) -> tuple[list[bytes], int]:
        """Read to the end, or until there are more than `size` bytes; returns fingerprints and bytes read."""
        prints: list[bytes] = []
        total = 0
        while total <= size:
            with self._explained(path):
                plain = _read_chunk(file)
            if not plain:
                break
            pipeline.add(prints, plain)
            total += len(plain)
            progress.advance(size=len(plain))
        return prints, total

    @contextmanager
    def _opened_file(self, fd: int, name: bytes, path: bytes) -> Iterator[int]:
        with self._explained(path):
            file = os.open(name, _READ, dir_fd=fd)
        try:
            yield file
        finally:
            os.close(file)

    @contextmanager
    def _opened(self, root_fd: int, path: bytes, flags: int) -> Iterator[int]:
        with ExitStack() as stack:
            with self._explained(path):
                fd = stack.enter_context(opened(root_fd, path, flags))
            yield fd

    @contextmanager
    def _explained(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise SourceChangedError(f"{self._shown(path)}: vanished while the tree was packed") from None
        except OSError as error:
            raise SourceError(f"{self._shown(path)}: {error.strerror}") from error

    def _shown(self, path: bytes) -> str:
        return str(self._root / os.fsdecode(path))


def _read_chunk(file: int) -> bytes:
    plain = os.read(file, CHUNK_SIZE)
    while plain and len(plain) < CHUNK_SIZE and (more := os.read(file, CHUNK_SIZE - len(plain))):
        plain += more
    return plain


def _read_link(path: bytes, name: str, fd: int) -> bytes:
    try:
        return os.fsencode(os.readlink(name, dir_fd=fd))
    except OSError as error:
        raise SourceChangedError(
            f"{os.fsdecode(path)}: changed while the tree was packed: {error.strerror}"
        ) from None


def _attributes(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return (
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns // SECOND,
        status.st_ctime_ns // SECOND,
    )


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _xattrs(fd: int, name: str) -> list[str]:
    # There is no listxattrat: the magic link leads to the open directory, and only `name` is looked up.
    try:
        return os.listxattr(f"/proc/self/fd/{fd}/{name}", follow_symlinks=False)
    except OSError:
        return []  # the file system has none, or the name is gone, which its reading will tell


def _place(path: Path) -> tuple[int, int, bytes] | None:
    """Where `path` stands: its directory's identity and its name; None where that directory is missing."""
    try:
        parent = path.absolute().parent.stat()
    except OSError:
        return None
    return parent.st_dev, parent.st_ino, os.fsencode(path.name)
