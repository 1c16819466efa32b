"""Images for guessing: real directories as an index without a store, and guesses about their files by path."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.index.trees import Tree, TreeReader, device, file, link
from zerofs.flist.compile import compile_flist
from zerofs.flist.index import Index
from zerofs.flist.model import CHUNK_SIZE, Kind
from zerofs.prefetch.guess.guesses import Guesses


def tree_of(directory: Path) -> Tree:
    """What `TreeReader` reads; every file has chunks of its own, named by its path."""
    tree: Tree = {}
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_symlink():
            tree[entry.name] = link(os.readlink(path))
        elif entry.is_dir():
            tree[entry.name] = tree_of(path)
        elif entry.is_file():
            status = entry.stat()
            tree[entry.name] = file(entry.path, size=status.st_size, mode=status.st_mode & 0o7777)
        else:
            tree[entry.name] = device(Kind.CHARDEV, 1, 3)
    return tree


class TestImage:
    """The directory `root` as an image; paths are relative to it, without a leading slash."""

    __test__ = False  # not a class of tests

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Index.anonymous(compile_flist(TreeReader(tree_of(root))))
        self.reads = 0  # calls
        self.read_bytes = 0
        self._paths: dict[int, Path] = {}
        self._files: dict[int, str] = {}  # by chunk
        for name, row in self.tree.walk():
            self._paths[row] = root / os.fsdecode(name)
            for chunk in self.tree.refs(row):
                self._files[chunk] = os.fsdecode(name)

    def read(self, row: int, offset: int, size: int) -> bytes | None:
        self.reads += 1
        self.read_bytes += size
        with self._paths[row].open("rb") as content:
            content.seek(offset)
            return content.read(size)

    def guesses(self) -> Guesses:
        return Guesses(self.tree, self.read)

    def row(self, path: str) -> int:
        row = self.tree.resolve(path.encode())
        assert row is not None, path
        return row

    def path(self, row: int) -> bytes:
        """Relative to the root."""
        return os.fsencode(self._paths[row].relative_to(self.root))

    def files(self, chunks: Iterable[int]) -> list[str]:
        """The paths of the files that chunks belong to, each once, in order."""
        return list(dict.fromkeys(self._files[chunk] for chunk in chunks))

    def follow(self, *paths: str) -> list[str]:
        """What opening these files in this order makes one guess, without themselves."""
        guesses = self.guesses()
        found = [chunk for path in paths for chunk in guesses.follow(self.row(path))]
        return [path for path in self.files(found) if path not in paths]


def write(root: Path, files: dict[str, str | bytes], mode: int = 0o644) -> None:
    """Write files below `root`, with their directories."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)


def compile_c(output: Path, *options: str, code: str = "int zero(void) { return 0; }") -> None:
    """A shared library, or with ``-pie`` a program, from one line of C."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    output.parent.mkdir(parents=True, exist_ok=True)
    kind = [] if "-pie" in options else ["-shared"]
    subprocess.run(
        [compiler, "-x", "c", "-", "-fPIC", "-nostdlib", "-Wl,--no-as-needed", *kind, "-o", output, *options],
        input=code.encode(),
        check=True,
    )


BLOCK = CHUNK_SIZE
