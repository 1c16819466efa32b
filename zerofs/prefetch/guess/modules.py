"""Python modules: what a module imports, found by the names that stand in it, source or compiled.

A module's own package, the packages around it and the roots of the interpreter are the places where a name may be
a module; a name is taken for one where the image has a file for it, so a wrong guess costs a small file.
A compiled module is not unmarshalled: its short strings are picked out (``Python/marshal.c``: a type
byte, a length byte, the text), and all that they can do is name files of the image.  One thread; no locks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from zerofs.flist.model import Kind
from zerofs.prefetch.guess.image import Image

MOST_CODE = 1 << 20  # bytes of a module that are looked through
MOST_MENTIONED = 8192  # names in a module, repeated ones counted
MOST_FOUND = 256  # modules that one module leads to
SMALL_PACKAGE = 16  # modules of a package that is guessed as a whole
MOST_NAMES = 2048  # in a directory of modules
MOST_PLACES = 512  # directories of modules that are remembered
MOST_ROOTS = 16
MOST_DEPTH = 16  # packages within packages

_STRING = re.compile(rb"[zZ\xfa\xda]([\x01-\x40])(?=[A-Za-z_])")
_DOTTED = re.compile(rb"[A-Za-z_]\w*(?:\.\w+)*", re.ASCII)
_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+|import[ \t]+)([^\n#]{1,500})", re.MULTILINE)
_INTERPRETER = re.compile(rb"python(3\.(\d{1,3}))", re.ASCII)


class Place(NamedTuple):
    """The modules of one directory: name → the file that an import reads, and the directory of a package."""

    files: dict[bytes, int]
    packages: dict[bytes, int]


_NOWHERE = Place({}, {})


def is_module(name: bytes) -> bool:
    return name.endswith((b".py", b".pyc"))


def mentioned(code: bytes, *, compiled: bool) -> list[bytes]:
    """The names, dotted or not, that a module may import, each once."""
    names = _compiled_names(code) if compiled else _source_names(code)
    return list(dict.fromkeys(islice(names, MOST_MENTIONED)))


def _compiled_names(code: bytes) -> Iterator[bytes]:
    for match in islice(_STRING.finditer(code), MOST_MENTIONED):
        text = code[match.end() : match.end() + match[1][0]]
        if _DOTTED.fullmatch(text):
            yield text


def _source_names(code: bytes) -> Iterator[bytes]:
    for match in _IMPORT.finditer(code):
        yield from _DOTTED.findall(match[1])


class Modules:
    """Finds the modules of an image."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._places: dict[int, Place] = {}
        self._roots: dict[int, None] = {}
        self._tag = b""  # what ends the name of a compiled module: ``.cpython-311.pyc``
        self._codecs = -1  # the package of codecs, which names many and imports none

    def of_interpreter(self, row: int) -> list[int]:
        """What the Python interpreter in the file `row` imports before anything else; nothing of other programs."""
        match = _INTERPRETER.fullmatch(self._image.name(row))
        if match is None:
            return []
        root = self._image.find(b"../lib/python" + match[1], self._image.node(row).parent)
        if root is None:
            return []
        self._tag = b".cpython-3%s.pyc" % match[2]
        self._add_root(root)
        files, packages = self._place(root)
        self._codecs = packages.get(b"encodings", -1)
        codecs = self._place(self._codecs).files if self._codecs >= 0 else {}
        first = (codecs.get(name) for name in (b"__init__", b"aliases", b"utf_8"))
        return [each for each in (*first, files.get(b"sitecustomize")) if each is not None]

    def of_module(self, row: int, file: bytes, code: bytes) -> list[int]:
        """The files that importing what the module in `row`, the file `file`, names would read."""
        compiled = file.endswith(b".pyc")
        if compiled:
            self._tag = file[file.find(b".") :]
        directory = self._directory(row)
        if directory == self._codecs:
            return []
        around = self._packages_around(directory)
        self._add_root(around[-1])
        places = [self._place(each) for each in dict.fromkeys((*around, *self._roots))]
        found: dict[int, None] = {}
        packages: dict[int, None] = {}
        names = mentioned(code, compiled=compiled)
        for name in names:
            first, *rest = name.split(b".")
            for place in places:
                if first in place.files:
                    self._import(first, rest, place, found, packages)
                    break
        self._take_from(packages, names, found)
        neighbours = self._place(directory).files
        if file.startswith(b"__init__.") and len(neighbours) <= SMALL_PACKAGE:
            found.update(dict.fromkeys(neighbours.values()))
        return list(found)[:MOST_FOUND]

    def _import(
        self,
        name: bytes,
        rest: list[bytes],
        place: Place,
        found: dict[int, None],
        packages: dict[int, None],
    ) -> None:
        """Note the files that importing the module `name` of a place, and `rest` below it, reads."""
        found[place.files[name]] = None
        for below in rest[:MOST_DEPTH]:
            package = place.packages.get(name)
            if package is None:
                return
            place = self._place(package)
            if below not in place.files:
                return
            name = below
            found[place.files[name]] = None
        if name in place.packages:
            packages[place.packages[name]] = None

    def _take_from(self, packages: dict[int, None], names: list[bytes], found: dict[int, None]) -> None:
        """Note what ``from package import name`` reads, whichever of the names belong together."""
        wanted = dict.fromkeys(names)
        for package in list(packages)[:MOST_ROOTS]:
            files = self._place(package).files
            for name in files.keys() & wanted.keys():
                found[files[name]] = None

    def _directory(self, row: int) -> int:
        """The directory that a module belongs to, compiled or not."""
        parent = self._image.node(row).parent
        above = self._image.node(parent).parent
        return above if self._image.lookup(above, b"__pycache__") == parent else parent

    def _packages_around(self, directory: int) -> list[int]:
        """The package in `directory`, the packages around it, and the directory that holds them."""
        around = [directory]
        while len(around) < MOST_DEPTH and self._image.lookup(directory, b"__init__.py") is not None:
            directory = self._image.node(directory).parent
            around.append(directory)
        return around

    def _add_root(self, directory: int) -> None:
        if directory in self._roots or len(self._roots) >= MOST_ROOTS:
            return
        self._roots[directory] = None
        extensions = self._image.lookup(directory, b"lib-dynload")
        if extensions is None:
            return
        version = self._image.name(directory)
        others = (b"dist-packages", b"site-packages", b"../python3/dist-packages")
        local = (b"/usr/local/lib/%s/%s" % (version, name) for name in others[:2])
        rows = (self._image.find(name, directory) for name in (*others, *local))
        for row in (extensions, *rows):
            if row is not None and len(self._roots) < MOST_ROOTS:
                self._roots[row] = None

    def _place(self, directory: int) -> Place:
        place = self._places.get(directory)
        if place is None:
            if len(self._places) >= MOST_PLACES:
                return _NOWHERE
            place = self._places[directory] = self._look_through(directory)
        return place

    def _look_through(self, directory: int) -> Place:
        image = self._image
        cache = image.lookup(directory, b"__pycache__")
        place = Place({}, {})
        if image.node(directory).length > MOST_NAMES:
            return place
        compiled = {} if cache is None or not self._tag else dict(image.names(cache))
        extensions: dict[bytes, int] = {}
        for name, row in image.names(directory):
            stem, dot, _ = name.partition(b".")
            if name.endswith(b".so"):
                extensions[stem] = row
            elif name.endswith(b".py"):
                place.files.setdefault(stem, compiled.get(stem + self._tag, row))
            elif not dot and image.node(row).kind is Kind.DIR and (first := self._first_of(row)) is not None:
                place.files[stem] = first
                place.packages[stem] = row
        place.files.update(extensions)
        return place

    def _first_of(self, package: int) -> int | None:
        """What importing a package reads; None for a directory that is none."""
        source = self._image.lookup(package, b"__init__.py")
        cache = self._image.lookup(package, b"__pycache__")
        compiled = None if cache is None else self._image.lookup(cache, b"__init__" + self._tag)
        return source if source is None or compiled is None else compiled
