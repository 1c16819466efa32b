"""The error tree: what can go wrong, what to do about it, and what the caller is told.

Every error that zerofs raises on purpose is a :class:`ZerofsError`.  A class owns an
exit status (what a command ends with; the numbers are those of the drop-in command), an
errno (what the kernel is told where the error ends a file operation) and a hint (what the
user can do next).  A message is one line and never holds a password.
"""

from __future__ import annotations

import errno as _errno
import os as _os
import re as _re
from typing import ClassVar

_TLS_NOISE = _re.compile(r"^\[[A-Z0-9_: ]+\] | \(_ssl\.c:\d+\)$")  # OpenSSL's names and Python's places


class ZerofsError(Exception):
    """The root of the tree.  ``str(error)`` is one line without the hint."""

    exit_code: ClassVar[int] = 1
    errno: ClassVar[int] = _errno.EIO
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class UsageError(ZerofsError):
    """The command line does not make sense."""

    exit_code = 2
    errno = _errno.EINVAL
    hint = "see --help"


# -- flists --------------------------------------------------------------------------------


class FlistError(ZerofsError):
    """A flist cannot be used."""

    exit_code = 3


class FlistNotFoundError(FlistError):
    """There is nothing at the path or URL of the flist."""

    errno = _errno.ENOENT
    hint = "check its path"


class FlistUnreachableError(FlistError):
    """The server of a flist's URL does not answer, or says that it cannot for now."""

    hint = "check the URL and the network"


class FlistFormatError(FlistError):
    """The bytes are not those of any flist generation that is known."""

    hint = (
        "a flist is a tar (plain, gzip, bzip2) of a RocksDB or SQLite database, its directory, or a .fl file"
    )


class FlistCorruptError(FlistError):
    """The flist is of a known format but damaged: truncated, a record missing or malformed."""

    hint = "fetch the flist again or rebuild it with `zerofs pack`"


class FlistUnsafeError(FlistError):
    """The flist's archive would write outside its target, or holds links or devices."""

    hint = "do not use this archive: it was made to escape its directory"


class FlistTooLargeError(FlistError):
    """The flist's archive, or a record in it, is over the bound that protects this host."""

    errno = _errno.EFBIG
    hint = "raise the bound with --max-flist-size if you trust where it comes from"


class ProfileError(ZerofsError):
    """An access profile cannot be used: damaged, of another flist, of a newer version."""

    errno = _errno.EINVAL
    hint = "the next mount that records writes a new one"


class PathNotInFlistError(FlistError):
    """A command was asked for a path that the flist does not hold."""

    exit_code = 1
    errno = _errno.ENOENT
    hint = "list what is there with `zerofs ls FLIST`"


# -- stores --------------------------------------------------------------------------------


class StoreConfigError(ZerofsError):
    """A store URL or a router file makes no sense; all faults are named together."""

    exit_code = 4
    errno = _errno.EINVAL
    hint = "see docs/stores.md for the URLs and the router file"


class StoreError(ZerofsError):
    """A store did not do what it was asked; another destination may."""

    hint = "check that the store is up and that its URL is right"


class StoreUnreachableError(StoreError):
    """No connection, or the connection broke.  Worth a retry."""

    errno = _errno.EIO


class StoreTimeoutError(StoreUnreachableError):
    """The store did not answer within the deadline."""

    hint = "the store is slow or gone; --timeout sets how long a read may wait"


class StoreProtocolError(StoreUnreachableError):
    """The answer was malformed or over its bound; the connection was dropped."""


class StoreRefusedError(StoreError):
    """The store as a whole cannot be used and asking again will not help: wrong namespace, untrusted TLS."""

    hint = "check the store's URL"


class StoreAuthError(StoreRefusedError):
    """The store refused the password, or wants one."""

    hint = "check the password in the store's URL"


class StoreReadOnlyError(StoreError):
    """The store takes no writes."""

    errno = _errno.EROFS


class ChunkMissingError(StoreError):
    """No destination holds the chunk."""

    hint = "the flist names a store that lacks the chunk; give another with --storage-url"


class ClosingError(StoreError):
    """The mount is being taken down: what was asked for is not fetched any more."""

    hint = ""


# -- chunks --------------------------------------------------------------------------------


class ChunkError(ZerofsError):
    """A chunk's payload cannot be served."""

    hint = "the stored chunk is damaged; another replica or a fresh upload has to provide it"


class ChunkCorruptError(ChunkError):
    """The payload does not decode to bytes that hash to the chunk's key, or not to its size."""


class ChunkUnverifiableError(ChunkError):
    """The key is of a length that names no hash, so nobody can tell whether the bytes are right."""

    hint = "serve it all the same with --allow-unverified, at your own risk"


# -- packing and unpacking -----------------------------------------------------------------


class SourceError(ZerofsError):
    """What is to be packed cannot be read, or is not what it claims to be."""

    hint = "nothing was written; mend the source and pack again (what is stored already is not sent twice)"


class SourceChangedError(SourceError):
    """What is to be packed changes or vanishes meanwhile."""

    hint = "nothing was written; pack a snapshot, or stop what writes there"


class DestinationError(ZerofsError):
    """What is to be written has no place there."""

    hint = "choose another place"


# -- the host ------------------------------------------------------------------------------


class MountError(ZerofsError):
    """The file system cannot be mounted: not permitted, busy, no FUSE."""

    exit_code = 5


class TakeoverError(MountError):
    """A mount that outlives its server cannot be handed from one to the next."""


class RelayedError(ZerofsError):
    """Another process of ours failed; its message has the hint, and its exit status is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class BackendError(ZerofsError):
    """The backend directory cannot be used."""

    exit_code = 6


class CacheError(ZerofsError):
    """The cache directory cannot be used."""

    exit_code = 6


def reason_of(error: BaseException | str) -> str:
    """Why a system call or a library failed, in words: without the numbers and names that Python puts before them."""
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    reason = getattr(error, "verify_message", None) or error.strerror or str(error) or type(error).__name__
    reason = _TLS_NOISE.sub("", reason)
    name = error.filename
    return f"{_os.fsdecode(name)}: {reason}" if isinstance(name, str | bytes) else reason


def describe(error: BaseException) -> str:
    """The line that a user sees: what happened and, where known, what to do next."""
    text = str(error) or type(error).__name__
    hint = getattr(error, "hint", "")
    return f"{text} ({hint})" if hint else text
