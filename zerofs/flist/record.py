"""One directory record or ACI record, between Cap'n Proto bytes and the model.

Role: the codec of the RocksDB and SQLite generations; knows no database.  Used while a flist is compiled or
written, never while it is read.  `zerofs.flist._record` reads them, and trusts no byte; pycapnp writes
them, and is imported by nobody who only reads.  Stateless apart from the schema, which is loaded once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from zerofs.errors import FlistCorruptError, FlistTooLargeError
from zerofs.flist._record import read_aci, read_directory
from zerofs.flist.model import BLOCK_UNIT, DIRECTORY_SIZE, Attributes, Directory, Entry, Kind
from zerofs.flist.tally import Tally

MAX_RECORD = 256 << 20  # bytes of one record
MAX_FILE_SIZE = 2**63 - 1  # bytes; off_t
MAX_TIME = 2**32 - 1  # seconds; the fields are UInt32
_MAX_MAJOR, _MAX_MINOR = 2**12 - 1, 2**20 - 1

UNKNOWN_KIND = "entries of an unknown kind"
BAD_DEVICE = "devices without a readable number, shown as 0,0"
LOST_TIME = "times that the format cannot hold, moved to the nearest it can"

_SPECIAL_TYPE = {Kind.SOCKET: 0, Kind.BLOCK: 1, Kind.CHARDEV: 2, Kind.FIFO: 3}

OwnerOf = Callable[[bytes], tuple[int, int, int]]  # key of an ACI → mode, uid, gid
AclKeyOf = Callable[[Kind, Attributes], bytes]


class Aci(NamedTuple):
    """Owner and mode as they stand in an ACI record."""

    uname: bytes
    gname: bytes
    mode: int  # a full st_mode or permission bits only
    uid: int  # -1: go by the name
    gid: int


@cache
def _schema() -> Any:
    """The loaded schema, for writing."""
    import capnp  # type: ignore[import-untyped]

    return capnp.load(str(Path(__file__).with_name("flist_bytes.capnp")))


def decode_directory(record: bytes, owner_of: OwnerOf, tally: Tally) -> Directory:
    """The directory in `record`; what cannot be shown is counted in `tally`.

    Raises FlistCorruptError for a record that is malformed, FlistTooLargeError for one over 256 MiB.
    """
    try:
        attributes, entries, skipped = read_directory(
            record, _budget(record), owner_of, lambda data: _device(data, tally)
        )
    except ValueError as error:
        raise FlistCorruptError(f"a directory record is malformed: {error}") from error
    if skipped:
        tally.add(UNKNOWN_KIND, skipped)
    return Directory(attributes, tally.admit(entries))


def decode_aci(record: bytes) -> Aci:
    """The owner and mode in `record`.  Raises as :func:`decode_directory` does."""
    try:
        return Aci(*read_aci(record, _budget(record)))
    except ValueError as error:
        raise FlistCorruptError(f"an ACI record is malformed: {error}") from error


def encode_directory(
    path: bytes,
    directory: Directory,
    key_of: Callable[[bytes], bytes],
    aclkey_of: AclKeyOf,
    tally: Tally,
) -> bytes:
    """The record of `directory` at `path`, which is relative to the root and has no slash at either end."""
    parent, _, name = path.rpartition(b"/")
    message = _schema().Dir.new_message()
    message.name = _terminated(name)
    message.location = _terminated(path)
    message.parent = _terminated(key_of(parent) if path else b"")
    message.size = DIRECTORY_SIZE
    _encode_attributes(message, Kind.DIR, directory.attributes, aclkey_of, tally)
    contents = message.init("contents", len(directory.entries))
    for inode, entry in zip(contents, directory.entries, strict=True):
        inode.name = _terminated(entry.name)
        _encode_attributes(inode, entry.kind, entry.attributes, aclkey_of, tally)
        _encode_kind(inode, entry, key_of(path + b"/" + entry.name if path else entry.name))
    return bytes(message.to_bytes())


def encode_aci(aci: Aci) -> bytes:
    """The record of an owner and mode."""
    message = _schema().ACI.new_message()
    message.uname, message.gname = _terminated(aci.uname), _terminated(aci.gname)
    message.mode, message.uid, message.gid = aci.mode, aci.uid, aci.gid
    return bytes(message.to_bytes())


def _device(data: bytes, tally: Tally) -> tuple[int, int]:
    """The numbers in "major,minor", decimal; 0,0 where they are none that the kernel knows."""
    major, _, minor = data.rstrip(b"\0").partition(b",")
    if major.isdigit() and minor.isdigit() and len(data) < 32:
        device = int(major), int(minor)
        if device[0] <= _MAX_MAJOR and device[1] <= _MAX_MINOR:
            return device
    tally.add(BAD_DEVICE)
    return 0, 0


def _budget(record: bytes) -> int:
    """The words that reading `record` may follow: an honest one needs its own size and a little."""
    if len(record) > MAX_RECORD:
        raise FlistTooLargeError(f"a record of {len(record)} bytes, where {MAX_RECORD} is the most")
    return len(record) // 2 + 1024  # four times its words


# -- encoding ------------------------------------------------------------------------------


def _encode_attributes(
    message: Any, kind: Kind, attributes: Attributes, aclkey_of: AclKeyOf, tally: Tally
) -> None:
    message.aclkey = _terminated(aclkey_of(kind, attributes))
    message.modificationTime = _time(attributes.mtime, tally)
    message.creationTime = _time(attributes.ctime, tally)


def _encode_kind(inode: Any, entry: Entry, key: bytes) -> None:
    union = inode.attributes
    inode.size = entry.size
    if entry.kind == Kind.DIR:
        inode.size = DIRECTORY_SIZE
        union.init("dir").key = _terminated(key)
    elif entry.kind == Kind.FILE:
        file = union.init("file")
        file.blockSize = entry.block_size // BLOCK_UNIT
        for block, chunk in zip(file.init("blocks", len(entry.chunks)), entry.chunks, strict=True):
            block.hash, block.key = chunk
    elif entry.kind == Kind.LINK:
        inode.size = len(entry.target)
        union.init("link").target = _terminated(entry.target)
    else:
        special = union.init("special")
        special.type = _SPECIAL_TYPE[entry.kind]
        if entry.kind in (Kind.BLOCK, Kind.CHARDEV):
            special.data = b"%d,%d" % entry.device


def _terminated(text: bytes) -> bytes:
    return text + b"\0"


def _time(seconds: int, tally: Tally) -> int:
    if 0 <= seconds <= MAX_TIME:
        return seconds
    tally.add(LOST_TIME)
    return min(max(seconds, 0), MAX_TIME)
