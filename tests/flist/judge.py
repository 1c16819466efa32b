"""The same records read through pycapnp: slower, by other people, and right by definition."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import capnp

from zerofs.errors import FlistCorruptError
from zerofs.flist import record as codec
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
from zerofs.flist.record import Aci
from zerofs.flist.tally import Tally

SCHEMA: Any = capnp.load(str(Path(codec.__file__).with_name("flist_bytes.capnp")))

_SPECIAL = (Kind.SOCKET, Kind.BLOCK, Kind.CHARDEV, Kind.FIFO)


def judge_directory(record: bytes, owner_of: codec.OwnerOf, tally: Tally) -> Directory:
    try:
        with SCHEMA.Dir.from_bytes(record, traversal_limit_in_words=_limit(record)) as read:
            owner = owner_of(_text(read.aclkey))
            attributes = Attributes(*owner, read.modificationTime, read.creationTime)
            entries = [_entry(inode, owner_of, tally) for inode in read.contents]
            return Directory(attributes, tally.admit(entry for entry in entries if entry))
    except (capnp.KjException, ValueError) as error:
        raise FlistCorruptError(str(error)) from error


def judge_aci(record: bytes) -> Aci:
    try:
        with SCHEMA.ACI.from_bytes(record, traversal_limit_in_words=_limit(record)) as aci:
            return Aci(_text(aci.uname), _text(aci.gname), aci.mode, aci.uid, aci.gid)
    except (capnp.KjException, ValueError) as error:
        raise FlistCorruptError(str(error)) from error


def _entry(inode: Any, owner_of: codec.OwnerOf, tally: Tally) -> Entry | None:
    try:
        kind = inode.attributes.which()
    except capnp.KjException:  # a member that the schema does not have
        tally.add(codec.UNKNOWN_KIND)
        return None
    name = _text(inode.name)
    attributes = Attributes(*owner_of(_text(inode.aclkey)), inode.modificationTime, inode.creationTime)
    value = getattr(inode.attributes, str(kind))
    if kind == "file":
        size = min(inode.size, 2**63 - 1)
        block_size = value.blockSize * BLOCK_UNIT or CHUNK_SIZE
        blocks = islice(value.blocks, -(-size // block_size))
        chunks = tuple(ChunkRef(block.hash, block.key) for block in blocks)
        return Entry(name, Kind.FILE, attributes, size, block_size=block_size, chunks=chunks)
    if kind == "dir":
        return Entry(name, Kind.DIR, attributes, DIRECTORY_SIZE, key=_text(value.key))
    if kind == "link":
        target = _text(value.target)
        return Entry(name, Kind.LINK, attributes, len(target), target=target)
    if value.type >= len(_SPECIAL):
        tally.add(codec.UNKNOWN_KIND)
        return None
    special, data = _SPECIAL[value.type], value.data
    if special in (Kind.FIFO, Kind.SOCKET):
        return Entry(name, special, attributes)
    major, _, minor = data.rstrip(b"\0").partition(b",")
    if major.isdigit() and minor.isdigit() and len(data) < 32:
        device = int(major), int(minor)
        if device[0] < 4096 and device[1] < 1 << 20:
            return Entry(name, special, attributes, device=device)
    tally.add(codec.BAD_DEVICE)
    return Entry(name, special, attributes)


def _limit(record: bytes) -> int:
    return len(record) // 2 + 1024


def _text(data: bytes) -> bytes:
    return data[:-1] if data.endswith(b"\0") else data
