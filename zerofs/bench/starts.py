"""The ways to start a container from a remote image: pulled as a whole, or mounted with each kind of prefetch.

A *full pull* does what a container runtime does with a layer: one stream of the compressed archive at the rate of the
link, unpacked while it comes, then the program runs from the plain directory.  All of this favours it: a real runtime
keeps the archive first, and unpacks behind the download.

Which options a way of mounting stands for is said here and nowhere else; an option that this build does not take
is reported, not guessed at.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from zerofs.bench.corpus import Corpus
from zerofs.bench.ours import Zerofs
from zerofs.cli.mount_options import add_options
from zerofs.cli.parser import Parser
from zerofs.errors import MountError, UsageError
from zerofs.store.redis import RespStore
from zerofs.store.url import parse_store_url

_PIECE = 1 << 20  # bytes of the archive in one value
_PATIENCE = 600.0  # seconds for a pull
_LEVELS = {"zstd": "-9", "gzip": "-6"}


class FullPull:
    """The archive, in pieces in the same Redis as the chunks, asked for in one go on one connection."""

    name = "full-pull"

    def __init__(self, corpus: Corpus, workdir: Path) -> None:
        self._corpus = corpus
        self.tree = workdir / self.name
        self._keys: list[bytes] = []
        self.compressor = next((name for name in _LEVELS if shutil.which(name)), "gzip")
        self.size = 0  # bytes of the archive

    def prepare(self, server: str) -> None:
        """Put the archive into the server with the URL `server`."""
        pack = ["tar", "--create", "--one-file-system", "--directory", str(self._corpus.directory), "."]
        store = RespStore(parse_store_url(server))
        compress = [self.compressor, _LEVELS[self.compressor], "--stdout"]
        with (
            subprocess.Popen(pack, stdout=subprocess.PIPE) as tar,
            subprocess.Popen(compress, stdin=tar.stdout, stdout=subprocess.PIPE) as packed,
        ):
            assert packed.stdout is not None and tar.stdout is not None
            tar.stdout.close()
            for piece in iter(lambda: packed.stdout.read(_PIECE), b""):  # type: ignore[union-attr]
                key = b"archive-%d" % len(self._keys)
                store.put_many([(key, piece)], time.monotonic() + _PATIENCE)
                self._keys.append(key)
                self.size += len(piece)
        store.close()
        if tar.returncode or packed.returncode:
            raise MountError("the image could not be packed into an archive", hint="")

    def pull(self, server: str) -> float:
        """Download from `server` and unpack; returns seconds."""
        self.remove()
        self.tree.mkdir()
        begin = time.perf_counter()
        unpack = ["tar", "--extract", f"--use-compress-program={self.compressor}", "--directory"]
        with subprocess.Popen([*unpack, str(self.tree)], stdin=subprocess.PIPE) as tar:
            assert tar.stdin is not None
            for piece in self._pieces(server):
                tar.stdin.write(piece)
        if tar.returncode:
            raise MountError(f"tar ended with status {tar.returncode}", hint="")
        return time.perf_counter() - begin

    def _pieces(self, server: str) -> Iterator[bytes | bytearray | memoryview]:
        store = RespStore(parse_store_url(server))
        try:
            for piece in store.get_many(self._keys, time.monotonic() + _PATIENCE):
                if piece is None:
                    raise MountError("the archive is not whole", hint="")
                yield piece
        finally:
            store.close()

    def remove(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)


class Lazy(Zerofs):
    """The usual call of a container host, with nothing on the host and nothing read ahead."""

    name = "lazy"
    prefetch: ClassVar[str] = "off"

    @classmethod
    def missing(cls) -> str | None:
        parser = Parser(add_help=False)
        add_options(parser)
        try:
            parser.parse_args([f"--prefetch={cls.prefetch}", "target"])
        except UsageError:
            return f"this build has no --prefetch {cls.prefetch}"
        return super().missing()

    def mount_union(self) -> None:
        backend = self.workdir / "backend"
        self._mount("--reset", "--backend", backend, "--prefetch", self.prefetch)

    def make_ready(self, workload: str) -> None:
        """Whatever has to be on the host, and nothing else, before `workload` starts."""
        self.forget()


class Heuristics(Lazy):
    """With what the flist and the reads themselves tell."""

    name = "heuristics"
    prefetch = "heuristics"


class Profile(Lazy):
    """With the profile that an earlier run of the same workload left, and that was brought here."""

    name = "profile"
    prefetch = "profile"

    def keep(self, workload: str) -> bool:
        """Keep the profile that a run has just left; whether there is one."""
        kept = self._kept(workload)
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for path in (self.cache / "flists").glob("*.profile"):
            shutil.copy(path, kept)
        return any(kept.iterdir())

    def make_ready(self, workload: str) -> None:
        self.forget()
        place = self.cache / "flists"
        place.mkdir(parents=True)
        for path in self._kept(workload).iterdir():
            shutil.copy(path, place)

    def _kept(self, workload: str) -> Path:
        return self.workdir / "profiles" / workload


class Warm(Lazy):
    """The next container of a host that has everything; all of prefetch is on, with nothing to do."""

    name = "warm"
    prefetch = "on"

    def make_ready(self, workload: str) -> None:
        shutil.rmtree(self.workdir / "backend", ignore_errors=True)


class WarmOff(Warm):
    """The same without prefetch: what it costs where it has nothing to do."""

    name = "warm-off"
    prefetch = "off"


FETCHING: tuple[type[Lazy], ...] = (Lazy, Heuristics, Profile)  # what is read, before it is or when
MOUNTED: tuple[type[Lazy], ...] = (*FETCHING, Warm, WarmOff)
NAMES = (FullPull.name, *(kind.name for kind in MOUNTED))
