"""Random operations on a tree, which end alike on every file system that is one.

`Operations(root, seed)` draws the next operation from its seed alone, and from the names that it knows, never from
what the file system answers: two of them with one seed do the same, each to its own root.  Each step returns what a
program would see: bytes, a size, a listing, or the errno.

    python -m tests.judges.operations SEED STEPS ROOT ROOT

runs two roots against each other and ends with status 1 at the first difference.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
import sys
from collections.abc import Callable
from pathlib import Path

MOST_BYTES = 300_000  # that a write may put at once, and of the offset at which it does
MOST_SIZE = 2 << 20
Outcome = tuple[str, object]


class Operations:
    """See the module.  `names`: paths below the root that exist at first."""

    def __init__(self, root: Path, seed: int, names: list[str]) -> None:
        self.root = root
        self._chance = random.Random(seed)
        self._names = [*names, *(f"new-{number}" for number in range(12))]
        self._directories = sorted({os.path.dirname(name) for name in names} | {"", "made-0", "made-1"})
        self._kinds: list[Callable[[], object]] = [
            self._write, self._write, self._append, self._truncate, self._read, self._read, self._read_mapped,
            self._write_mapped, self._rename, self._rename, self._rename_directory, self._link, self._symlink,
            self._unlink, self._mkdir, self._rmdir, self._chmod, self._chown, self._utime, self._list, self._stat,
            self._replace, self._open_and_unlink,
        ]  # fmt: skip

    def step(self) -> Outcome:
        """Do the next operation: its name and what came of it."""
        operation = self._chance.choice(self._kinds)
        try:
            return operation.__name__, operation()
        except OSError as error:
            return operation.__name__, errno.errorcode.get(error.errno or 0, error.errno)

    # -- names -----------------------------------------------------------------------------

    def _name(self) -> str:
        if self._chance.random() < 0.7:
            return self._chance.choice(self._names)
        return os.path.join(self._directory(), f"n{self._chance.randrange(6)}")

    def _directory(self) -> str:
        return self._chance.choice(self._directories)

    def _inner_directory(self) -> str:
        """Not the root: a mount point is busy where a directory is not empty."""
        return self._chance.choice([name for name in self._directories if name])

    def _path(self) -> Path:
        return self.root / self._name()

    def _bytes(self) -> bytes:
        return self._chance.randbytes(self._chance.choice((0, 1, 100, 4096, 70_000, MOST_BYTES)))

    # -- operations ------------------------------------------------------------------------

    def _write(self) -> object:
        path, offset, data = self._path(), self._chance.randrange(MOST_BYTES), self._bytes()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
        try:
            return os.pwrite(descriptor, data, offset), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def _append(self) -> object:
        path, data = self._path(), self._bytes()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            if os.fstat(descriptor).st_size > MOST_SIZE:
                os.ftruncate(descriptor, 0)
            return os.write(descriptor, data), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def _truncate(self) -> object:
        path, size = self._path(), self._chance.randrange(MOST_SIZE // 2)
        os.truncate(path, size)
        return path.stat().st_size

    def _read(self) -> object:
        path, offset, size = (
            self._path(),
            self._chance.randrange(MOST_BYTES),
            self._chance.randrange(MOST_BYTES),
        )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _read_mapped(self) -> object:
        with self._path().open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return b""
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return bytes(mapped)

    def _write_mapped(self) -> object:
        path, data, share = self._path(), self._chance.randbytes(5000), self._chance.random()
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= len(data):
                return size
            with mmap.mmap(file.fileno(), 0) as mapped:
                start = int(share * (size - len(data)))
                mapped[start : start + len(data)] = data
                mapped.flush()
        return path.read_bytes()

    def _rename(self) -> object:
        source, target = self._path(), self._path()
        return os.rename(source, target)

    def _rename_directory(self) -> object:
        source, target = self.root / self._inner_directory(), self.root / f"{self._directory()}-moved"
        os.rename(source, target)
        return os.rename(target, source)  # back again, so that names go on leading somewhere

    def _replace(self) -> object:
        """As an editor saves a file."""
        path, data = self._path(), self._bytes()
        draft = path.with_name(path.name + ".draft")
        draft.write_bytes(data)
        os.replace(draft, path)
        return path.read_bytes()

    def _link(self) -> object:
        source, target = self._path(), self._path()
        os.link(source, target)
        return os.path.samefile(source, target), target.lstat().st_nlink

    def _symlink(self) -> object:
        target, place = self._name(), self._path()
        place.symlink_to(target)
        return os.readlink(place)

    def _unlink(self) -> object:
        return os.unlink(self._path())

    def _open_and_unlink(self) -> object:
        """What was open goes on, however it was opened."""
        path, writing, data = self._path(), self._chance.random() < 0.5, self._bytes()
        with path.open("r+b" if writing else "rb", buffering=0) as file:
            path.unlink()
            if writing:
                file.write(data)
            file.seek(0)
            return file.read()

    def _mkdir(self) -> object:
        return os.mkdir(self.root / self._directory(), 0o750)

    def _rmdir(self) -> object:
        return os.rmdir(self.root / self._inner_directory())

    def _chmod(self) -> object:
        path, mode = self._path(), self._chance.randrange(0o10000)
        os.chmod(path, mode)
        return stat.S_IMODE(path.stat().st_mode)

    def _chown(self) -> object:
        path, owner, group = self._path(), self._chance.randrange(3), self._chance.randrange(3)
        os.chown(path, owner, group, follow_symlinks=False)
        status = path.lstat()
        return status.st_uid, status.st_gid, status.st_mode

    def _utime(self) -> object:
        path, at = self._path(), self._chance.randrange(1 << 31)
        os.utime(path, (at, at), follow_symlinks=False)
        return int(path.lstat().st_mtime)

    def _list(self) -> object:
        return sorted(os.listdir(self.root / self._directory()))

    def _stat(self) -> object:
        status = self._path().lstat()
        is_file = stat.S_ISREG(status.st_mode)
        return status.st_mode, status.st_uid, status.st_gid, status.st_size if is_file else 0


def tree(root: Path) -> dict[str, Outcome]:
    """All that the operations change below `root`: kinds, modes, owners, contents, and which names are one file."""
    found: dict[str, Outcome] = {}
    files: dict[tuple[int, int], str] = {}
    for place, directories, names in os.walk(root):
        directories.sort()
        for name in sorted([*directories, *names]):
            path = Path(place, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISREG(status.st_mode):
                first = files.setdefault((status.st_dev, status.st_ino), os.path.relpath(path, root))
                content = status.st_nlink, first, path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[os.path.relpath(path, root)] = oct(status.st_mode), (status.st_uid, status.st_gid, content)
    return found


def names_below(root: Path) -> list[str]:
    """The files of a tree, by their paths in it."""
    return sorted(name for name in tree(root) if not (root / name).is_dir())


def difference(seed: int, steps: int, model: Path, judged: Path) -> str | None:
    """Run both roots, which begin alike; the first difference in words, or None."""
    names = names_below(model)
    two = Operations(model, seed, names), Operations(judged, seed, names)
    for number in range(steps):
        expected, found = (each.step() for each in two)
        if expected != found:
            return f"seed {seed}, step {number}: {_short(expected)} became {_short(found)}"
    before, after = tree(model), tree(judged)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            return (
                f"seed {seed}, the end: {name}: {_short(before.get(name))} became {_short(after.get(name))}"
            )
    return None


def _short(outcome: object) -> str:
    text = repr(outcome)
    return text if len(text) < 200 else f"{text[:200]}… ({len(text)})"


if __name__ == "__main__":
    found = difference(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    print(found or "no difference")
    sys.exit(found is not None)
