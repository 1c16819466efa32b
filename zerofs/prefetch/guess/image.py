"""What the guesses see of an image: names resolved as a chroot would, and bytes of files, all of it within bounds.

Role: the only way of the parsers here to the image.  Whatever a hostile image says, one call costs at most one
directory of `MOST_NAMES` names or `MOST_BYTES` bytes, and all paths that are resolved for one file at most
`MOST_STEPS` look-ups.  Runs in the one thread that guesses; no locks.
"""

from __future__ import annotations

from collections.abc import Callable

from zerofs.flist import paths
from zerofs.flist.index import Index, Node
from zerofs.flist.model import Kind

MOST_NAMES = 4096  # in a directory that is looked through
MOST_CHUNKS = 4096  # of a file of which any are guessed
MOST_BYTES = 4 << 20  # of a file that are read at a time
MOST_STEPS = 32768  # of paths, between two calls of `begin`

Read = Callable[[int, int, int], bytes | None]


class Image:
    """The tree, and the bytes that `read(row, offset, size)` gives (None: they cannot be had)."""

    def __init__(self, tree: Index, read: Read) -> None:
        self._tree = tree
        self._read = read
        self._paths = _Charged(tree)
        self._listed: tuple[int, dict[int, bytes]] = (-1, {})  # a directory, and its names by row
        self.node = tree.node
        self.lookup = tree.lookup

    def begin(self) -> None:
        """Paths may take `MOST_STEPS` from now on."""
        self._paths.left = MOST_STEPS

    def find(self, path: bytes, start: int = 0) -> int | None:
        """The row at `path`, links followed, relative to the directory `start`; None where there is none."""
        if not path or len(path) > paths.MAX_PATH:
            return None
        try:
            return paths.find(self._paths, path, start=start)
        except LookupError:
            return None

    def find_file(self, path: bytes, start: int = 0) -> int | None:
        """The same for regular files only."""
        row = self.find(path, start)
        return row if row is not None and self.is_file(row) else None

    def is_file(self, row: int) -> bool:
        return self.node(row).kind is Kind.FILE

    def names(self, directory: int) -> list[tuple[bytes, int]]:
        """(name, row) of what is in a directory, sorted; nothing of one that is too large to look through."""
        return self._tree.children(directory) if self.node(directory).length <= MOST_NAMES else []

    def name(self, row: int) -> bytes:
        """The name of a file, empty where its directory is too large to look through."""
        directory = self.node(row).parent
        if self._listed[0] != directory:
            self._listed = directory, {child: name for name, child in self.names(directory)}
        return self._listed[1].get(row, b"")

    def chunks(self, row: int) -> list[int]:
        """The numbers of all chunks of a file; nothing of one that has too many."""
        return self._tree.refs(row) if self.node(row).length <= MOST_CHUNKS else []

    def chunks_of(self, row: int, offset: int, size: int) -> list[int]:
        """The chunks that hold `size` bytes at `offset` of a file."""
        block = self.node(row).block_size
        chunks = self.chunks(row)
        if not chunks or size <= 0:
            return []
        return chunks[offset // block : (offset + size - 1) // block + 1]

    def read(self, row: int, offset: int, size: int) -> bytes:
        """Bytes of a file, fewer where it ends or they cannot be had; may wait for a store."""
        size = min(size, MOST_BYTES, self.node(row).size - offset)
        if offset < 0 or size <= 0:
            return b""
        return self._read(row, offset, size) or b""

    def size_of(self, chunk: int) -> int:
        """The plain bytes of a chunk."""
        return self._tree.chunk(chunk).size


class _Charged:
    """The tree for resolving paths; LookupError once `left` is used up."""

    def __init__(self, tree: Index) -> None:
        self._tree = tree
        self.left = 0

    def lookup(self, row: int, name: bytes, /) -> int | None:
        self._charge()
        return self._tree.lookup(row, name)

    def node(self, row: int, /) -> Node:
        self._charge()
        return self._tree.node(row)

    def target(self, row: int, /) -> bytes:
        self._charge()
        return self._tree.target(row)

    def _charge(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise LookupError("too many paths")
