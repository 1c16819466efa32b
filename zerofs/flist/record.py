"""One directory record or ACI record, between Cap'n Proto bytes and the model.

Role: the codec of the RocksDB and SQLite generations; knows no database.  The records come from outside:
Cap'n Proto checks every pointer, and the words that may be followed are bounded by the size of the record,
so a small record cannot unfold into a large one.  Used while a flist is compiled or written, never while it
is read.  Stateless apart from the schema, which is loaded once.

Fields are taken by descriptor (``_get_by_field``), which costs a third of attribute access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from zerofs.errors import FlistCorruptError, FlistTooLargeError
from zerofs.flist.model import (
    BLOCK_UNIT,
    CHUNK_SIZE,
    DIRECTORY_SIZE,
    Attributes,
    ChunkRef,
    Directory,
    Entry,
    Kind,
)
from zerofs.flist.tally import Tally

MAX_RECORD = 256 << 20  # bytes of one record
MAX_FILE_SIZE = 2**63 - 1  # bytes; off_t
MAX_TIME = 2**32 - 1  # seconds; the fields are UInt32
_MAX_MAJOR, _MAX_MINOR = 2**12 - 1, 2**20 - 1

UNKNOWN_KIND = "entries of an unknown kind"
BAD_DEVICE = "devices without a readable number, shown as 0,0"
LOST_TIME = "times that the format cannot hold, moved to the nearest it can"

_SPECIAL = (Kind.SOCKET, Kind.BLOCK, Kind.CHARDEV, Kind.FIFO)
_SPECIAL_TYPE = {kind: number for number, kind in enumerate(_SPECIAL)}

AttributesOf = Callable[[bytes, int, int], Attributes]  # (key of an ACI, mtime, ctime)
AclKeyOf = Callable[[Kind, Attributes], bytes]


class Aci(NamedTuple):
    """Owner and mode as they stand in an ACI record."""

    uname: bytes
    gname: bytes
    mode: int  # a full st_mode or permission bits only
    uid: int  # -1: go by the name
    gid: int


class _Schema:
    """The loaded schema and the field descriptors that decoding asks for."""

    def __init__(self) -> None:
        import capnp  # type: ignore[import-untyped]

        self.error: type[Exception] = capnp.KjException
        module = capnp.load(str(Path(__file__).with_name("flist_bytes.capnp")))
        self.dir: Any = module.Dir
        self.aci: Any = module.ACI
        fields = module.Dir.schema.fields
        self.dir_contents, self.dir_acl = fields["contents"], fields["aclkey"]
        self.dir_mtime, self.dir_ctime = fields["modificationTime"], fields["creationTime"]
        fields = module.Inode.schema.fields
        self.name, self.size, self.acl = fields["name"], fields["size"], fields["aclkey"]
        self.mtime, self.ctime = fields["modificationTime"], fields["creationTime"]
        self.attributes = fields["attributes"]
        self.block_size, self.blocks = (module.File.schema.fields[name] for name in ("blockSize", "blocks"))
        self.id, self.key = (module.FileBlock.schema.fields[name] for name in ("hash", "key"))


@cache
def _schema() -> _Schema:
    return _Schema()


def decode_directory(record: bytes, attributes_of: AttributesOf, tally: Tally) -> Directory:
    """The directory in `record`; what cannot be shown is counted in `tally`.

    Raises FlistCorruptError for a record that is malformed, FlistTooLargeError for one over 256 MiB.
    """
    schema = _schema()
    try:
        with schema.dir.from_bytes(record, traversal_limit_in_words=_traversal_limit(record)) as message:
            get = message._get_by_field
            attributes = attributes_of(
                _text(get(schema.dir_acl)), get(schema.dir_mtime), get(schema.dir_ctime)
            )
            entries = _decode_entries(schema, get(schema.dir_contents), attributes_of, tally)
            return Directory(attributes, tally.admit(entries))
    except (schema.error, ValueError) as error:
        raise FlistCorruptError(f"a directory record is malformed: {_one_line(error)}") from error


def decode_aci(record: bytes) -> Aci:
    """The owner and mode in `record`.  Raises as :func:`decode_directory` does."""
    schema = _schema()
    try:
        with schema.aci.from_bytes(record, traversal_limit_in_words=_traversal_limit(record)) as aci:
            return Aci(_text(aci.uname), _text(aci.gname), aci.mode, aci.uid, aci.gid)
    except (schema.error, ValueError) as error:
        raise FlistCorruptError(f"an ACI record is malformed: {_one_line(error)}") from error


def encode_directory(
    path: bytes,
    directory: Directory,
    key_of: Callable[[bytes], bytes],
    aclkey_of: AclKeyOf,
    tally: Tally,
) -> bytes:
    """The record of `directory` at `path`, which is relative to the root and has no slash at either end."""
    parent, _, name = path.rpartition(b"/")
    message = _schema().dir.new_message()
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
    message = _schema().aci.new_message()
    message.uname, message.gname = _terminated(aci.uname), _terminated(aci.gname)
    message.mode, message.uid, message.gid = aci.mode, aci.uid, aci.gid
    return bytes(message.to_bytes())


# -- decoding ------------------------------------------------------------------------------


def _decode_entries(
    schema: _Schema, contents: Any, attributes_of: AttributesOf, tally: Tally
) -> Iterator[Entry]:
    for inode in contents:
        get = inode._get_by_field
        union = get(schema.attributes)
        try:
            kind = union._which_str()
        except schema.error:  # the only reason: a member that the schema does not have
            tally.add(UNKNOWN_KIND)
            continue
        name = _text(get(schema.name))
        attributes = attributes_of(_text(get(schema.acl)), get(schema.mtime), get(schema.ctime))
        value = union._get(kind)
        if kind == "file":
            yield _decode_file(schema, name, attributes, get(schema.size), value)
        elif kind == "dir":
            yield Entry(name, Kind.DIR, attributes, DIRECTORY_SIZE, key=_text(value.key))
        elif kind == "link":
            target = _text(value.target)
            yield Entry(name, Kind.LINK, attributes, len(target), target=target)
        elif value.type < len(_SPECIAL):
            yield _decode_special(name, _SPECIAL[value.type], attributes, value.data, tally)
        else:
            tally.add(UNKNOWN_KIND)


def _decode_file(schema: _Schema, name: bytes, attributes: Attributes, size: int, file: Any) -> Entry:
    size = min(size, MAX_FILE_SIZE)
    get = file._get_by_field
    block_size = get(schema.block_size) * BLOCK_UNIT or CHUNK_SIZE
    needed = -(-size // block_size)
    chunks = tuple(
        ChunkRef(block._get_by_field(schema.id), block._get_by_field(schema.key))
        for block in islice(get(schema.blocks), needed)
    )
    return Entry(name, Kind.FILE, attributes, size, block_size=block_size, chunks=chunks)


def _decode_special(name: bytes, kind: Kind, attributes: Attributes, data: bytes, tally: Tally) -> Entry:
    if kind not in (Kind.BLOCK, Kind.CHARDEV):
        return Entry(name, kind, attributes)
    major, _, minor = data.rstrip(b"\0").partition(b",")
    if major.isdigit() and minor.isdigit() and len(data) < 32:
        device = int(major), int(minor)
        if device[0] <= _MAX_MAJOR and device[1] <= _MAX_MINOR:
            return Entry(name, kind, attributes, device=device)
    tally.add(BAD_DEVICE)
    return Entry(name, kind, attributes)


def _traversal_limit(record: bytes) -> int:
    """The words that reading `record` may follow: an honest one needs its own size and a little."""
    if len(record) > MAX_RECORD:
        raise FlistTooLargeError(f"a record of {len(record)} bytes, where {MAX_RECORD} is the most")
    return len(record) // 2 + 1024  # four times its words


def _text(data: bytes) -> bytes:
    """A Text field as bytes: without the NUL that ends it on the wire."""
    return data[:-1] if data.endswith(b"\0") else data


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


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
