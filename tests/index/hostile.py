"""Indexes as somebody would craft them: checksums right, a number in the tables wrong.  Each is named by the reason."""

from __future__ import annotations

import struct
from collections.abc import Callable

from zerofs.flist.index import CHILD, CHUNK, NODE, Tables

U32, U64 = 2**32 - 1, 2**64 - 1
DIR, FILE, LINK = 0o040755, 0o100644, 0o120777
_FIELDS = (
    *(
        "size",
        "mtime",
        "ctime",
        "first",
        "count",
        "mode",
        "uid",
        "gid",
        "nlink",
        "rdev",
        "block_size",
        "parent",
    ),
)
_CHILD_FIELDS = ("name", "node", "length", "kind", "reserved")
_CHUNK_FIELDS = ("id", "key", "id_form", "key_form", "reserved", "size")


def sound() -> Tables:
    """Row 0 the root, 1 a directory in it, 2 a file of two chunks, 3 a link, 4 an empty directory below row 1.

    Children: 0 "dir", 1 "file", 2 "link" of the root, 3 "sub" of row 1.
    """
    nodes = (
        NODE.pack(4096, 1, 1, 0, 3, DIR, 0, 0, 3, 0, 0, 0),
        NODE.pack(4096, 1, 1, 3, 1, DIR, 0, 0, 3, 0, 0, 0),
        NODE.pack(5000, 1, 1, 0, 2, FILE, 0, 0, 1, 0, 4096, 0),
        NODE.pack(4, 1, 1, 0, 4, LINK, 0, 0, 1, 0, 0, 0),
        NODE.pack(4096, 1, 1, 0, 0, DIR, 0, 0, 2, 0, 0, 1),
    )
    children = (
        CHILD.pack(0, 1, 3, 0o040000, 0),
        CHILD.pack(3, 2, 4, 0o100000, 0),
        CHILD.pack(7, 3, 4, 0o120000, 0),
        CHILD.pack(11, 4, 3, 0o040000, 0),
    )
    chunks = (
        CHUNK.pack(b"i" * 16, b"k" * 16, 16, 16, 0, 4096),
        CHUNK.pack(b"j" * 32, b"l" * 32, 64, 64, 0, 904),
    )
    return Tables(
        b"".join(nodes), b"".join(children), b"dirfilelinksub", struct.pack("<II", 0, 1), b"".join(chunks)
    )


def with_node(row: int, **changes: int) -> Callable[[Tables], Tables]:
    return lambda tables: tables._replace(nodes=_changed(tables.nodes, NODE, row, _FIELDS, changes))


def with_child(row: int, **changes: int) -> Callable[[Tables], Tables]:
    return lambda tables: tables._replace(
        children=_changed(tables.children, CHILD, row, _CHILD_FIELDS, changes)
    )


def with_chunk(row: int, **changes: object) -> Callable[[Tables], Tables]:
    return lambda tables: tables._replace(chunks=_changed(tables.chunks, CHUNK, row, _CHUNK_FIELDS, changes))


def with_names(names: bytes) -> Callable[[Tables], Tables]:
    return lambda tables: tables._replace(names=names)


def with_ref(position: int, number: int) -> Callable[[Tables], Tables]:
    def change(tables: Tables) -> Tables:
        refs = bytearray(tables.refs)
        struct.pack_into("<I", refs, 4 * position, number)
        return tables._replace(refs=refs)

    return change


def _changed(
    table: bytes | bytearray,
    form: struct.Struct,
    row: int,
    fields: tuple[str, ...],
    changes: dict[str, object],
) -> bytes:
    content = bytearray(table)
    values = dict(zip(fields, form.unpack_from(content, row * form.size), strict=True))
    form.pack_into(content, row * form.size, *{**values, **changes}.values())
    return bytes(content)


def crafted(*changes: Callable[[Tables], Tables]) -> Tables:
    tables = sound()
    for change in changes:
        tables = change(tables)
    return tables


def _form(offset: int, length: int) -> bytes:
    return struct.pack("<QI", offset, length)


_LONG_NAMES = b"dirfilelinksub" + b"k" * 5000
_EDGES = {"at-2-31": 2**31, "at-2-32": U32, "at-2-32-less-one": U32 - 1}
_WIDE = {**_EDGES, "at-2-63": 2**63, "at-2-64": U64, "that-wraps": U64 - 1}

REFUSED: dict[str, Tables] = {
    **{f"children-{name}": crafted(with_node(0, first=value)) for name, value in _WIDE.items()},
    **{f"children-counted-{name}": crafted(with_node(0, count=_EDGES[name])) for name in list(_EDGES)[::2]},
    **{f"refs-{name}": crafted(with_node(2, first=value)) for name, value in _WIDE.items()},
    **{f"refs-counted-{name}": crafted(with_node(2, count=value, size=2**62)) for name, value in _EDGES.items()},
    **{f"target-{name}": crafted(with_node(3, first=value)) for name, value in _WIDE.items()},
    **{f"target-long-{name}": crafted(with_node(3, count=value)) for name, value in _EDGES.items()},
    **{f"parent-{name}": crafted(with_node(1, parent=value)) for name, value in _EDGES.items()},
    **{f"name-{name}": crafted(with_child(0, name=value)) for name, value in _EDGES.items()},
    **{f"node-{name}": crafted(with_child(0, node=value)) for name, value in _EDGES.items()},
    **{f"chunk-{name}": crafted(with_ref(1, value)) for name, value in _EDGES.items()},
    **{f"id-{name}": crafted(with_chunk(0, id_form=255, id=_form(value, 4))) for name, value in _WIDE.items()},
    **{f"key-{name}": crafted(with_chunk(0, key_form=255, key=_form(value, 4))) for name, value in _WIDE.items()},
    "key-beyond-the-names": crafted(with_chunk(0, key_form=255, key=_form(0, 15))),
    "key-too-long": crafted(with_names(_LONG_NAMES), with_chunk(0, key_form=255, key=_form(0, 4097))),
    "key-of-no-form": crafted(with_chunk(0, key_form=33)),
    "block-of-no-size": crafted(with_node(2, block_size=0)),
    "block-of-one-byte": crafted(with_node(2, block_size=1, size=2)),
    "block-of-half-a-page": crafted(with_node(2, block_size=2048, size=4096)),
    "block-that-is-no-whole-page": crafted(with_node(2, block_size=4097)),
    "block-of-4-gigabytes": crafted(with_node(2, block_size=U32 - 4095, size=2**33)),
    "chunk-of-4-gigabytes": crafted(with_chunk(0, size=U32)),
    "more-chunks-than-bytes": crafted(with_node(2, size=4096)),
    "chunks-of-an-empty-file": crafted(with_node(2, size=0)),
    "size-negative": crafted(with_node(2, size=2**63)),
    "type-unknown": crafted(with_node(2, mode=0o050644), with_child(1, kind=0o050000)),
    "mode-beyond-16-bits": crafted(with_node(2, mode=FILE | 1 << 16)),
    "name-says-another-type": crafted(with_child(1, kind=0o040000)),
    "name-empty": crafted(with_child(0, length=0)),
    "name-too-long": crafted(with_names(b"d" * 300), with_child(0, length=256)),
    "name-dot": crafted(with_names(b".  filelinksub"), with_child(0, length=1)),
    "name-dotdot": crafted(with_names(b".. filelinksub"), with_child(0, length=2)),
    "name-with-a-slash": crafted(with_names(b"d/rfilelinksub")),
    "name-with-a-nul": crafted(with_names(b"d\0rfilelinksub")),
    "names-unsorted": crafted(with_names(b"zirfilelinksub")),
    "names-equal": crafted(with_child(1, name=0, length=3)),
    "root-within-itself": crafted(with_child(0, node=0)),
    "directory-within-itself": crafted(with_child(3, node=1)),
    "directories-within-each-other": crafted(with_node(1, parent=4), with_node(4, first=0, count=1)),
    "directory-in-two-places": crafted(with_node(4, first=3, count=1)),
    "children-shared": crafted(with_node(4, first=0, count=3)),
    "two-names-of-a-node": crafted(with_child(2, node=2, kind=0o100000)),
    "parent-of-itself": crafted(with_node(1, parent=1)),
    "parents-in-a-circle": crafted(with_node(1, parent=4)),
    "parent-that-is-a-file": crafted(with_node(4, parent=2)),
    "root-that-is-a-link": crafted(with_node(0, mode=LINK)),
}  # fmt: skip

SAFE: dict[str, Tables] = {
    "sound": sound(),
    "directory-without-a-record": crafted(with_node(1, count=U32, first=U64)),
    "row-that-nobody-names": crafted(with_node(1, count=0)),
    "file-of-the-largest-size": crafted(with_node(2, size=2**63 - 1)),
    "file-short-of-chunks": crafted(with_node(2, size=2**40, block_size=0xFFFF * 4096)),
    "file-without-chunks": crafted(with_node(2, count=0, first=2, block_size=0)),
    "times-at-the-edges": crafted(with_node(2, mtime=-(2**63), ctime=2**63 - 1), with_node(3, mtime=2**63 - 1)),
    "times-of-a-directory": crafted(with_node(0, mtime=2**62), with_node(4, mtime=-(2**62))),
    "owners-at-the-edges": crafted(with_node(2, uid=U32, gid=U32), with_node(1, uid=U32 - 1)),
    "links-without-end": crafted(with_node(2, nlink=U32), with_node(1, nlink=0)),
    "device-numbers": crafted(with_node(2, mode=0o020666, rdev=U32, size=0, count=0), with_child(1, kind=0o020000)),
    "chunk-of-no-size": crafted(with_chunk(0, size=0)),
    "chunk-larger-than-its-file": crafted(with_chunk(1, size=0xFFFF * 4096)),
    "chunk-twice": crafted(with_ref(1, 0)),
    "key-that-is-empty": crafted(with_chunk(0, key_form=0)),
    "key-among-the-names": crafted(with_chunk(0, key_form=255, key=_form(3, 8))),
    "target-that-is-empty": crafted(with_node(3, count=0)),
    "size-of-a-directory": crafted(with_node(0, size=2**63 - 1), with_node(4, size=0)),
}  # fmt: skip
