"""Where a flist comes from: a file, an unpacked directory or a URL, told apart by content.

Role: turns the user's argument into a digest (to find the compiled index without unpacking) and, where
that fails, into a reader of the right generation.  Nothing is ever written beside the argument:
downloads and unpacked databases go to a private directory below `workdir`.  Off the way of a read.  One
thread, no locks but those of :mod:`zerofs.flist.scratch`.
"""

from __future__ import annotations

import os
import stat
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from zerofs.errors import (
    BackendError,
    FlistError,
    FlistFormatError,
    FlistNotFoundError,
    FlistTooLargeError,
)
from zerofs.flist.layout import (
    MAX_PROFILE,
    MAX_ROUTER,
    PROFILE_NAME,
    ROUTER_NAME,
    SQLITE_NAME,
    Container,
    Generation,
    container_of,
    database_files,
    generation_of,
    pending_files,
)
from zerofs.flist.model import FlistReader

if TYPE_CHECKING:
    import hashlib

    from zerofs.flist.scratch import Scratches

DEFAULT_MAX_SIZE = 1 << 30  # bytes, unpacked or downloaded
DEFAULT_MAX_MEMBERS = 10_000
_STEP = 1 << 20  # bytes read at once
_SETTLED = 2 * 10**9  # nanoseconds; no file system counts times in coarser steps


def open_source(
    argument: str,
    *,
    workdir: Path,
    max_size: int = DEFAULT_MAX_SIZE,
    max_members: int = DEFAULT_MAX_MEMBERS,
    patience: float | None = None,
) -> FlistSource:
    """The flist at `argument`: a path, a ``file://`` or an ``http(s)://`` URL.

    `max_size` bounds the bytes downloaded or unpacked.  `patience`: seconds without a byte after which a server is
    given up, where the usual ones are too many.  The result is a context manager; close it.
    Raises FlistNotFoundError, FlistFormatError and the other FlistErrors.
    """
    return FlistSource(argument, workdir, max_size, max_members, patience)


class FlistSource:
    """A flist before it is read.  Not thread-safe; close it."""

    argument: str  # as the user named it
    display: str  # the same without a password

    def __init__(
        self, argument: str, workdir: Path, max_size: int, max_members: int, patience: float | None = None
    ) -> None:
        self.argument = self.display = argument
        self._patience = patience
        self._workdir = workdir
        self._max_size, self._max_members = max_size, max_members
        self._file: BinaryIO | None = None
        try:
            self._path = self._local_path()
            self._container = self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FlistSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was downloaded or unpacked; readers must be closed before."""
        if self._file is not None:
            self._file.close()
        if "_scratches" in self.__dict__:
            self._scratches.close()

    def identity(self) -> str | None:
        """What the files of `digest` look like from outside: when it is the same, so are they.

        None where that cannot be said: a change shows in the time of the last change, which moves in steps, so
        a file that has just been written may be written again without a trace.
        """
        try:
            found = [] if self._file is None else [os.fstat(self._file.fileno())]
            found += [path.stat() for path in self._digested_beside()]
        except OSError as error:
            raise FlistError(f"cannot read {self.display}: {error.strerror}") from error
        if time.time_ns() - max((file.st_ctime_ns for file in found), default=0) < _SETTLED:
            return None
        looks = [
            (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in found
        ]
        return f"{self._path.absolute()} {looks}"

    @cached_property
    def digest(self) -> bytes:
        """BLAKE2b-256 of the file; of a directory, of the files of its database and router.yaml."""
        import hashlib

        digest = hashlib.blake2b(digest_size=32)
        try:
            if self._file is not None:
                _feed(digest, self._file)
            for path in self._digested_beside():
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    digest.update(b"%s\0%d\0" % (os.fsencode(path.name), size))
                    _feed(digest, file)
        except OSError as error:
            raise FlistError(f"cannot read {self.display}: {error.strerror}") from error
        return digest.digest()

    @cached_property
    def router(self) -> bytes | None:
        """The text of the flist's router.yaml; of an archive, unpacks it."""
        if self._container is Container.SQLITE:
            return None
        path = self._directory / ROUTER_NAME
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                text = file.read(MAX_ROUTER + 1)
        except OSError as error:
            raise FlistError(f"cannot read {path}: {error.strerror}") from error
        if len(text) > MAX_ROUTER:
            raise FlistTooLargeError(f"{self.display}: {ROUTER_NAME} is over {MAX_ROUTER} bytes")
        return text

    @cached_property
    def profile(self) -> bytes | None:
        """The bytes of the access profile that is shipped with the flist; nobody has looked into them."""
        if self._container is Container.SQLITE:
            return None
        path = self._directory / PROFILE_NAME
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                data = file.read(MAX_PROFILE + 1)
        except OSError:
            return None
        return data if len(data) <= MAX_PROFILE else None

    def _digested_beside(self) -> list[Path]:
        """The files that count besides the one at the argument itself."""
        if self._file is None:
            return database_files(self._path)
        if self._container is Container.SQLITE:
            return pending_files(self._path)
        return []

    def reader(self) -> FlistReader:
        """A reader of the flist's database, unpacked first where it stands in an archive."""
        if self._container is Container.SQLITE:
            return self._sqlite_reader(self._path)
        if generation_of(self._directory, self.display) is Generation.SQLITE:
            return self._sqlite_reader(self._directory / SQLITE_NAME)
        from zerofs.flist.rocksdb import RocksdbReader

        return RocksdbReader(self._rocksdb_directory(), subject=self.display)

    # -- where it lies ---------------------------------------------------------------------

    def _local_path(self) -> Path:
        scheme = self.argument.partition("://")[0].lower() if "://" in self.argument else ""
        if scheme in ("http", "https"):
            from zerofs.flist.download import STALL_TIMEOUT, displayed, download

            self.display = displayed(self.argument)
            target = self._scratches.new() / "download"
            patience = STALL_TIMEOUT if self._patience is None else self._patience
            download(self.argument, target, max_size=self._max_size, stall_timeout=patience)
            return target
        if scheme == "file":
            url = urlsplit(self.argument)
            if url.netloc not in ("", "localhost"):
                raise FlistNotFoundError(f"{self.argument}: a file:// URL names no other host")
            return Path(os.fsdecode(unquote_to_bytes(url.path)))
        if scheme and not Path(self.argument).exists():
            raise FlistNotFoundError(
                f"flists do not come by {scheme}://", hint="name a path or a file://, http:// or https:// URL"
            )
        return Path(self.argument)

    def _open(self) -> Container | None:
        """The container of the file, None for a directory."""
        try:
            # O_NONBLOCK: a FIFO must not hold up the mount
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                os.close(descriptor)
                generation_of(self._path, self.display)
                return None
            self._file = os.fdopen(descriptor, "rb")
            if not stat.S_ISREG(mode):
                raise FlistFormatError(f"{self.display} is neither a file nor a directory")
            return container_of(self._file.read(512), self.display)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FlistNotFoundError(f"there is no flist at {self.display}") from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise FlistError(f"cannot read {self.display}: {reason}") from error

    @cached_property
    def _scratches(self) -> Scratches:
        """Private directories; a flist whose index is known needs none."""
        from zerofs.flist.scratch import Scratches

        return Scratches(self._workdir)

    # -- what is in it ---------------------------------------------------------------------

    @cached_property
    def _directory(self) -> Path:
        """The directory of the database: the user's own, or that of the unpacked archive."""
        if self._file is None or self._container is None:
            return self._path
        from zerofs.flist.container import unpack

        target = self._scratches.new()
        unpack(
            self._file,
            self._container,
            target,
            subject=self.display,
            max_size=self._max_size,
            max_members=self._max_members,
        )
        generation_of(target, self.display)
        return target

    def _rocksdb_directory(self) -> Path:
        if self._container is not None:
            return self._directory
        from zerofs.flist.rocksdb import private_view

        view = self._scratches.new()
        try:
            private_view(self._path, view, subject=self.display, max_size=self._max_size)
        except OSError as error:
            raise BackendError(f"cannot copy {self.display}: {error.strerror}") from error
        return view

    def _sqlite_reader(self, path: Path) -> FlistReader:
        from zerofs.flist.fungi import FungiReader
        from zerofs.flist.sqlite import SqliteReader
        from zerofs.flist.sqlitefile import generation_of_file

        if pending_files(path):
            path = self._settled(path)
        if generation_of_file(path, self.display) is Generation.FUNGI:
            return FungiReader(path, subject=self.display)
        return SqliteReader(path, subject=self.display)

    def _settled(self, path: Path) -> Path:
        """A private copy with what the journal or log holds and the file does not."""
        import shutil

        from zerofs.flist.sqlitefile import settle

        copy = self._scratches.new() / path.name
        try:
            for original in (path, *pending_files(path)):
                shutil.copyfile(original, copy.with_name(original.name))
        except OSError as error:
            raise BackendError(f"cannot copy {self.display}: {error.strerror}") from error
        settle(copy, self.display)
        return copy


def _feed(digest: hashlib.blake2b, file: BinaryIO) -> None:
    file.seek(0)
    while step := file.read(_STEP):
        digest.update(step)
