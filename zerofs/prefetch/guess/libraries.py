"""Where the loader finds the libraries that an ELF file names: its search, within the image.

The order is that of ld.so(8): DT_RPATH (of the file and of those that loaded it) unless there is a DT_RUNPATH,
DT_RUNPATH, ``/etc/ld.so.cache``, the default directories; those of Debian's multiarch among them.
The environment of the program is not known here.  One thread; no locks.
"""

from __future__ import annotations

import re

from zerofs.prefetch.guess import ldcache
from zerofs.prefetch.guess.elf import Needs
from zerofs.prefetch.guess.image import Image

MOST_DIRECTORIES = 32  # of one search path

_TRIPLETS = {
    62: b"x86_64-linux-gnu",
    3: b"i386-linux-gnu",
    183: b"aarch64-linux-gnu",
    40: b"arm-linux-gnueabihf",
    243: b"riscv64-linux-gnu",
    21: b"powerpc64le-linux-gnu",
    22: b"s390x-linux-gnu",
}
_TOKEN = re.compile(rb"\$(?:(ORIGIN|LIB|PLATFORM)\b|\{(ORIGIN|LIB|PLATFORM)\})")


class Libraries:
    """Finds libraries by name; reads the cache of the image once."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._cache: dict[int, dict[bytes, bytes]] = {}  # by machine
        self._defaults: dict[int, tuple[int, ...]] = {}

    def cache_file(self) -> int | None:
        """The row of ``/etc/ld.so.cache``: every start of a program reads it."""
        return self._image.find_file(ldcache.PATH)

    def search_path(self, text: bytes, origin: int, machine: int) -> tuple[int, ...]:
        """The directories (rows) that a DT_RPATH or DT_RUNPATH of a file in the directory `origin` names."""
        found: dict[int, None] = {}
        for part in text.split(b":", MOST_DIRECTORIES)[:MOST_DIRECTORIES]:
            row = self._directory(part, origin, machine) if part else None
            if row is not None:
                found[row] = None
        return tuple(found)

    def find(
        self, name: bytes, needs: Needs, origin: int, machine: int, inherited: tuple[int, ...]
    ) -> int | None:
        """The row of the library `name` that a file in the directory `origin` with these `needs` asks for.

        `inherited`: the DT_RPATH directories of those that loaded the file.
        """
        if b"/" in name:
            return self._image.find_file(name, origin)
        own = needs.runpath or needs.rpath
        first = self.search_path(own, origin, machine) if own else ()
        for directory in first if needs.runpath else (*first, *inherited):
            if (row := self._image.find_file(name, directory)) is not None:
                return row
        path = self._known(machine).get(name)
        if path is not None and (row := self._image.find_file(path)) is not None:
            return row
        for directory in self._default_directories(machine):
            if (row := self._image.find_file(name, directory)) is not None:
                return row
        return None

    def _directory(self, part: bytes, origin: int, machine: int) -> int | None:
        base = 0
        if match := _TOKEN.match(part):
            if b"ORIGIN" not in match.groups():
                return None  # a search path does not begin with the others
            base, part = origin, b"./" + part[match.end() :].lstrip(b"/")
        elif not part.startswith(b"/"):
            return None  # relative to the working directory, which is not known
        words = {b"LIB": b"lib/" + _TRIPLETS.get(machine, b""), b"ORIGIN": b".", b"PLATFORM": b"."}
        return self._image.find(_TOKEN.sub(lambda match: words[match[1] or match[2]], part), base)

    def _known(self, machine: int) -> dict[bytes, bytes]:
        if machine not in self._cache:
            if len(self._cache) >= len(_TRIPLETS):
                return {}  # programs for ever more machines: nobody's image
            row = self.cache_file()
            data = b"" if row is None else self._image.read(row, 0, ldcache.MOST_SIZE)
            self._cache[machine] = ldcache.parse(data, machine)
        return self._cache[machine]

    def _default_directories(self, machine: int) -> tuple[int, ...]:
        if machine not in self._defaults:
            if len(self._defaults) >= len(_TRIPLETS):
                return ()
            triplet = _TRIPLETS.get(machine)
            names = [b"/lib/" + triplet, b"/usr/lib/" + triplet] if triplet else []
            names += [b"/lib64", b"/usr/lib64", b"/lib", b"/usr/lib", b"/usr/local/lib"]
            rows = (self._image.find(name) for name in names)
            self._defaults[machine] = tuple(dict.fromkeys(row for row in rows if row is not None))
        return self._defaults[machine]
