"""Trees to pack, and what a packed flist says, in the words of the golden manifests."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from zerofs.chunk.codec import decode
from zerofs.flist.load import LoadedFlist, load_flist
from zerofs.flist.model import CHUNK_SIZE, Kind
from zerofs.store.base import Store

OLD = 981_173_106  # 2001
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective


def every_kind(root: Path) -> Path:
    """A tree with every kind of file, sizes around the chunk size, and what flists cannot hold.  As root."""
    chance = random.Random(1)
    root.mkdir(parents=True)
    for name, size in {
        "empty": 0,
        "one": 1,
        "short": CHUNK_SIZE - 1,
        "whole": CHUNK_SIZE,
        "over": CHUNK_SIZE + 1,
        "long": 3 * CHUNK_SIZE + 77,
    }.items():
        (root / name).write_bytes(chance.randbytes(size))
    (root / "zeros").write_bytes(bytes(2 * CHUNK_SIZE))
    (root / "copy-of-long").write_bytes((root / "long").read_bytes())
    (root / "bin").mkdir(0o755)
    (root / "bin/su").write_bytes(b"#!/bin/sh\n")
    (root / "bin/su").chmod(0o4755)
    (root / "bin/ping").write_bytes(b"#!/bin/true\n")
    os.setxattr(root / "bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "one", "user.comment", b"hello")
    os.link(root / "one", root / "bin/one-again")
    os.link(root / "long", root / "long-again")
    (root / "secret").mkdir(0o700)
    (root / "secret/key").write_bytes(b"k")
    (root / "secret/key").chmod(0o400)
    os.chown(root / "secret/key", 1234, 4321)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "many").mkdir()
    for number in range(150):
        (root / "many" / f"{number}").write_bytes(b"same" if number % 2 else b"%d" % number)
    (root / "ünïcödé and space").mkdir()
    (root / "ünïcödé and space" / "日本").symlink_to("../one")
    (root / "dangling").symlink_to("nowhere/at all")
    (root / "absolute").symlink_to("/one")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 4097))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
    with (root / "sparse").open("wb") as file:
        file.truncate(3 * CHUNK_SIZE)
        file.seek(CHUNK_SIZE + 5)
        file.write(b"island")
    for path in (root / "bin", root / "one", root):
        os.utime(path, ns=(OLD * 10**9, OLD * 10**9 + 123_456_789))
    return root


def not_utf8(root: Path) -> None:
    """Names and targets of other bytes than UTF-8."""
    directory = os.fsencode(root)
    Path(os.fsdecode(directory + b"/caf\xe9")).write_bytes(b"latin")
    os.symlink(b"caf\xe9", directory + b"/\xfflink")


def loaded(flist: Path, state: Path) -> LoadedFlist:
    return load_flist(str(flist), state)


def manifest_of(flist: LoadedFlist, store: Store) -> Iterator[str]:
    """What a mount of `flist` would show, with the content that `store` holds."""
    index = flist.index
    for path, row in index.walk():
        node = index.node(row)
        value: dict[str, object] = {
            "path": os.fsdecode(path) or ".",
            "kind": node.kind.name.lower(),
            "mode": f"{node.attributes.mode:04o}",
            "uid": node.uid,
            "gid": node.gid,
            "mtime": node.mtime,
        }
        if node.kind is Kind.FILE:
            value["size"] = node.size
            value["sha256"] = hashlib.sha256(content(flist, row, store)).hexdigest()
        elif node.kind is Kind.LINK:
            value["target"] = os.fsdecode(index.target(row))
        elif node.kind in (Kind.CHARDEV, Kind.BLOCK):
            value["rdev"] = "{},{}".format(*node.device)
        yield json.dumps(value, sort_keys=True)


def content(flist: LoadedFlist, row: int, store: Store) -> bytes:
    """The bytes of a file; every chunk but the last must be whole."""
    node = flist.index.node(row)
    chunks = [flist.index.chunk(number) for number in flist.index.refs(row)]
    payloads = store.get_many([chunk.id for chunk in chunks], time.monotonic() + 30)
    pieces = []
    for chunk, payload in zip(chunks, payloads, strict=True):
        assert payload is not None, f"the store lacks {chunk.id!r}"
        pieces.append(decode(chunk.key, payload, node.block_size))
    assert all(len(piece) == node.block_size for piece in pieces[:-1])
    assert sum(map(len, pieces)) == node.size
    return b"".join(pieces)
