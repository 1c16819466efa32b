"""What an image of a million entries costs: its index compiled and mapped, and the memory of who serves it.

Role: the measurements of the fetch suite that are of zerofs alone.  The flist is written by its own writer from a
tree that exists nowhere else: no chunk of it is ever asked for.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

from zerofs.bench import host
from zerofs.bench.corpus import Corpus
from zerofs.bench.ours import Zerofs
from zerofs.bench.work import Load
from zerofs.flist.model import Attributes, ChunkRef, Directory, Entry, Kind
from zerofs.flist.writer import open_writer

ENTRIES = 1_000_000
QUICK_ENTRIES = 2_000
_A_DIRECTORY = 24  # entries of a directory that has no directories
_EVERY = 12  # one entry of so many is a link
_FILE = Attributes(0o644, 0, 0, 1_700_000_000, 1_700_000_000)
_DIRECTORY = _FILE._replace(mode=0o755)

_COMPILE = """
import json, resource, sys, time
from pathlib import Path
from zerofs.flist.load import load_flist
began = time.perf_counter()
load_flist(sys.argv[1], Path(sys.argv[2]))
took = time.perf_counter() - began
print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
_MAP = """
import json, sys, time
from pathlib import Path
from zerofs.flist.index import Index
(path,) = Path(sys.argv[2]).glob("*.index-*")
began = time.perf_counter()
Index.open(path)
print(json.dumps([time.perf_counter() - began]))
"""


class Compiled(NamedTuple):
    """What a process took that compiled the index of a new flist."""

    seconds: float
    peak: float  # MiB, the interpreter's own included


class Million:
    """The flist, made once below `place`, and who mounts it."""

    def __init__(self, place: Path, entries: int) -> None:
        self._subject = Zerofs(Corpus("million", place / "million", ""), place)
        write(self._subject.flist, entries)
        self._subject.prepare()

    def compile(self) -> Compiled:
        """Compile it in a process of its own, with nothing in memory but the flist's file."""
        self._subject.forget()
        self._state.mkdir(parents=True)
        return Compiled(*self._alone(_COMPILE))

    def map(self) -> float:
        """Seconds that another process takes to map it, and to check all that it maps."""
        if not self._state.exists():
            self.compile()
        (seconds,) = self._alone(_MAP)
        return seconds

    @property
    def _state(self) -> Path:
        return self._subject.cache / "flists"

    def _alone(self, program: str) -> list[float]:
        said = host.command(sys.executable, "-c", program, self._subject.flist, self._state)
        figures: list[float] = json.loads(said)
        return figures

    def memory(self, load: Load) -> float:
        """MiB of the server's own memory once every entry has been looked at."""
        self._subject.mount()  # compiles where that is to be done: that process is another
        self._subject.unmount()
        self._subject.mount()
        try:
            load.walk(self._subject.tree)
            return host.own_memory(self._subject.server())
        finally:
            self._subject.unmount()


def write(destination: Path, entries: int) -> None:
    """A flist of about so many: directories of files with a chunk each, as many groups as each has members."""
    chance = random.Random(3)
    writer = open_writer("rocksdb", destination, workdir=destination.parent)
    try:
        groups = max(1, round((entries / (_A_DIRECTORY + 1)) ** 0.5))
        writer.add(b"", _directories(b"part", groups))
        for group in range(groups):
            path = b"part%04d" % group
            writer.add(path, _directories(b"package", groups))
            for member in range(groups):
                writer.add(path + b"/package%04d" % member, _files(chance))
        writer.finish()
    except BaseException:
        writer.abort()
        raise


def _directories(name: bytes, count: int) -> Directory:
    return Directory(
        _DIRECTORY, [Entry(name + b"%04d" % number, Kind.DIR, _DIRECTORY) for number in range(count)]
    )


def _files(chance: random.Random) -> Directory:
    return Directory(_DIRECTORY, [_entry(number, chance) for number in range(_A_DIRECTORY)])


def _entry(number: int, chance: random.Random) -> Entry:
    name = b"module%02d" % number
    if number % _EVERY == 0:
        return Entry(b"link" + name, Kind.LINK, _FILE, len(name), target=name)
    chunk = ChunkRef(chance.randbytes(16), chance.randbytes(16))
    return Entry(name, Kind.FILE, _FILE, chance.randrange(1, 65536), chunks=(chunk,))
