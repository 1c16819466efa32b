"""What a flist cannot hold of a source: clamped where it must be, counted always, never silent.

Role: sources report each path here while they scan; the packer's report carries the counts and
`zerofs pack` warns of them at its end.  One thread.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from zerofs.flist.model import Attributes

EXAMPLES = 3  # paths named per kind of loss
NOBODY = 65534  # what the kernel shows for an owner that it cannot express
MAX_ID = 2**32 - 2  # the id after it means "none" to the kernel
SECOND = 1_000_000_000  # nanoseconds


class Loss(enum.Enum):
    """A kind of loss: its name in reports, and what it means for who mounts the flist."""

    HARD_LINK = "hard_links", "hard links: each name becomes a file of its own (its chunks are stored once)"
    CAPABILITY = "capabilities", "file capabilities are dropped: these programs lose their privileges"
    ACL = "acls", "access control lists are dropped: only the mode bits stay"
    XATTR = "xattrs", "files with other extended attributes lose them"
    SPARSE = "sparse_files", "sparse files: their holes are stored as zeros (once)"
    SUBSECOND = "subsecond_times", "modification times are cut to whole seconds"
    TIME_RANGE = "times_out_of_range", "times outside of what the format holds are set to its nearest"
    OWNER_RANGE = "owners_out_of_range", "owners outside of 0–4294967294 become 65534"
    NOT_UTF8 = "names_not_utf8", "names or targets are not UTF-8: other readers of the format may alter them"

    def __init__(self, label: str, meaning: str) -> None:
        self.label = label
        self.meaning = meaning


class Limits(NamedTuple):
    """What a format's metadata can express."""

    first_time: int  # seconds since 1970
    last_time: int
    utf8_only: bool


LIMITS = {
    "rocksdb": Limits(0, 2**32 - 1, utf8_only=False),
    "sqlite": Limits(0, 2**32 - 1, utf8_only=False),
    "fl": Limits(-(2**63), 2**63 - 1, utf8_only=True),
}


class Count(NamedTuple):
    """How often a loss occurred, and the first paths."""

    number: int
    examples: list[bytes]


class Losses:
    """Counts the losses of one run for one format, and makes attributes that the format can hold."""

    def __init__(self, format: str) -> None:
        self._limits = LIMITS[format]
        self._numbers: dict[Loss, int] = {}
        self._examples: dict[Loss, list[bytes]] = {}

    def add(self, loss: Loss, path: bytes) -> None:
        self._numbers[loss] = self._numbers.get(loss, 0) + 1
        examples = self._examples.setdefault(loss, [])
        if len(examples) < EXAMPLES:
            examples.append(path)

    def counts(self) -> dict[Loss, Count]:
        """What was lost, in the order of :class:`Loss`."""
        return {
            loss: Count(self._numbers[loss], self._examples[loss]) for loss in Loss if loss in self._numbers
        }

    def attributes(self, mode: int, uid: int, gid: int, mtime: int, ctime: int) -> Attributes:
        """The nearest attributes that the format can hold; counts nothing."""
        return Attributes(mode & 0o7777, _owner(uid), _owner(gid), self._clamped(mtime), self._clamped(ctime))

    def check_owner(self, path: bytes, uid: int, gid: int) -> None:
        if _owner(uid) != uid or _owner(gid) != gid:
            self.add(Loss.OWNER_RANGE, path)

    def check_times(self, path: bytes, mtime: int, ctime: int, *, subsecond: bool) -> None:
        if self._clamped(mtime) != mtime or self._clamped(ctime) != ctime:
            self.add(Loss.TIME_RANGE, path)
        if subsecond:
            self.add(Loss.SUBSECOND, path)

    def check_text(self, path: bytes, *texts: bytes) -> None:
        """Count `path` once where one of `texts`, its name and target, cannot be held."""
        if self._limits.utf8_only and not all(_is_utf8(text) for text in texts):
            self.add(Loss.NOT_UTF8, path)

    def check_xattrs(self, path: bytes, names: Iterable[str]) -> None:
        """Count `path` once per kind among the `names` of its extended attributes."""
        for loss in {_xattr_loss(name) for name in names}:
            self.add(loss, path)

    def _clamped(self, seconds: int) -> int:
        return min(max(seconds, self._limits.first_time), self._limits.last_time)


def _owner(number: int) -> int:
    return number if 0 <= number <= MAX_ID else NOBODY


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _xattr_loss(name: str) -> Loss:
    if name == "security.capability":
        return Loss.CAPABILITY
    if name.startswith("system.posix_acl_"):
        return Loss.ACL
    return Loss.XATTR
