"""What is likely to be read next, told by nothing but the image and what was just opened.

Role: the prefetcher's source where there is no profile.  Programs and libraries lead to the libraries that they
name, scripts to their interpreters, Python modules to what they import, other files to small ones beside them.

Every guess is bounded: a file is followed once, a chunk is named once, and following one file names at most
`MOST_CHUNKS` chunks, of at most `MOST_BYTES`, and reads a bounded amount of their bytes, whatever these say.
Runs in one thread of the prefetcher, which `read` may keep waiting for a store; no locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zerofs.flist.index import Index
from zerofs.prefetch.guess import elf, script
from zerofs.prefetch.guess.image import Image, Read
from zerofs.prefetch.guess.libraries import Libraries
from zerofs.prefetch.guess.modules import MOST_CODE, Modules, is_module
from zerofs.prefetch.guess.siblings import Siblings

MOST_CHUNKS = 1024  # named for one file
MOST_BYTES = 64 << 20  # of these chunks
MOST_FILES = 128  # programs and libraries that one file leads to
WHOLE = 16  # chunks of a program or library that is guessed as a whole: loading touches most of it

_EXECUTABLE = 0o111


class Guesses:
    """Guesses about the files of one `tree`; `read(row, offset, size)` gives bytes of them, or None."""

    def __init__(self, tree: Index, read: Read) -> None:
        self._image = Image(tree, read)
        self._libraries = Libraries(self._image)
        self._modules = Modules(self._image)
        self._siblings = Siblings(self._image)
        self._followed: set[int] = set()  # rows of files that were looked into
        self._named: set[int] = set()  # chunks

    def follow(self, row: int) -> list[int]:
        """Chunks worth fetching now that the file `row` has been opened, the best first.

        Waits for the bytes of what it follows, so those who can fetch meanwhile take `steps`.
        """
        return [chunk for step in self.steps(row) for chunk in step]

    def steps(self, row: int) -> Iterator[list[int]]:
        """The same by and by: each list is known before the bytes of its files have to be there."""
        self._image.begin()
        chunks_left, bytes_left = MOST_CHUNKS, MOST_BYTES
        for chunks in self._leads(row):
            step: list[int] = []
            for chunk in chunks:
                if chunk in self._named:
                    continue
                chunks_left -= 1
                bytes_left -= self._image.size_of(chunk)
                if chunks_left < 0 or bytes_left < 0:
                    break
                self._named.add(chunk)
                step.append(chunk)
            if step:
                yield step
            if chunks_left <= 0 or bytes_left <= 0:
                return

    def _leads(self, row: int) -> Iterator[list[int]]:
        """Chunks, in steps, perhaps named before."""
        if row in self._followed or not self._image.is_file(row):
            return
        head = self._image.read(row, 0, elf.HEAD)
        if elf.is_elf(head):
            yield from self._loaded([row])
            yield self._files(self._modules.of_interpreter(row))
            return
        self._followed.add(row)
        interpreters = self._interpreters(head)
        if interpreters:
            yield from self._loaded(interpreters)
            yield self._files(file for each in interpreters for file in self._modules.of_interpreter(each))
        name = self._image.name(row)
        if is_module(name):
            yield from self._imported(row, name)
        elif not self._image.node(row).mode & _EXECUTABLE and row != self._libraries.cache_file():
            yield self._files(self._siblings.of(row))

    def _interpreters(self, head: bytes) -> list[int]:
        """The programs that a script starts with."""
        found = (
            next((row for path in paths if (row := self._image.find_file(path)) is not None), None)
            for paths in script.programs(head)
        )
        return [row for row in found if row is not None]

    def _imported(self, row: int, name: bytes) -> Iterator[list[int]]:
        found = self._modules.of_module(row, name, self._image.read(row, 0, MOST_CODE))
        yield self._files(found)
        yield from self._loaded([each for each in found if self._image.name(each).endswith(b".so")])

    def _loaded(self, rows: Iterable[int]) -> Iterator[list[int]]:
        """The programs and libraries in `rows` and, level by level, all that they load."""
        level: list[tuple[int, tuple[int, ...]]] = [(row, ()) for row in rows if row not in self._followed]
        files = len(level)
        while level:
            self._followed.update(row for row, _ in level)
            yield self._beginnings(row for row, _ in level)
            below: dict[int, tuple[int, ...]] = {}
            for row, inherited in level:
                head = self._image.read(row, 0, elf.HEAD)
                layout = elf.layout(head)
                if layout is None:
                    continue
                yield self._touched(row, layout)
                for found, rpath in self._needed(row, layout, inherited):
                    if found not in self._followed and files < MOST_FILES and found not in below:
                        files += 1
                        below[found] = rpath
            level = list(below.items())

    def _beginnings(self, rows: Iterable[int]) -> list[int]:
        """What is touched of programs and libraries whose bytes may not be there yet."""
        found: list[int] = []
        for row in rows:
            chunks = self._image.chunks(row)
            found += chunks if len(chunks) <= WHOLE else (chunks[0], chunks[-1])
        return found

    def _touched(self, row: int, layout: elf.Layout) -> list[int]:
        """What loading a file touches for sure, and what every start of a program reads beside it."""
        spans = [*layout.written, *([layout.dynamic] if layout.dynamic else [])]
        found = [chunk for span in spans for chunk in self._image.chunks_of(row, *span)]
        if layout.interpreter and (path := self._image.read(row, *layout.interpreter).partition(b"\0")[0]):
            loader, cache = self._image.find_file(path), self._libraries.cache_file()
            found += self._files(file for file in (loader, cache) if file is not None)
        return found

    def _needed(
        self, row: int, layout: elf.Layout, inherited: tuple[int, ...]
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(row, DT_RPATH directories for it) of each library that a file names."""
        needs = elf.needs(layout, lambda offset, size: self._image.read(row, offset, size))
        origin = self._image.node(row).parent
        if needs.rpath and not needs.runpath:
            own = self._libraries.search_path(needs.rpath, origin, layout.machine)
            inherited = tuple(dict.fromkeys((*own, *inherited)))[:64]
        for name in needs.libraries:
            found = self._libraries.find(name, needs, origin, layout.machine, inherited)
            if found is not None:
                yield found, inherited

    def _files(self, rows: Iterable[int]) -> list[int]:
        return [chunk for row in rows for chunk in self._image.chunks(row)[:WHOLE]]
