"""ELF files, as far as the loader of a program looks into them: what else it loads, and what it touches.

Facts from the System V ABI (gABI, chapters "ELF Header", "Program Header", "Dynamic Section").  The
bytes are anybody's: every offset is checked against what there is, and every count is bounded.  Stateless.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

HEAD = 4096  # bytes at the beginning that hold the header and the table of segments of nearly every file
MOST_SEGMENTS = 64
MOST_DYNAMIC = 1 << 16  # bytes of the dynamic section
MOST_STRINGS = 1 << 20  # bytes of the string table
MOST_NEEDED = 256
MOST_NAME = 4096  # bytes of a name or a search path

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_PF_W = 2
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_OFFSET_LIMIT = 1 << 62

ReadAt = Callable[[int, int], bytes]


class Span(NamedTuple):
    """Bytes of the file."""

    offset: int
    size: int


class _Load(NamedTuple):
    offset: int
    address: int
    size: int


class Layout(NamedTuple):
    """What the header and the table of segments say."""

    wide: bool  # 64 bits
    order: str  # of bytes, as struct writes it
    machine: int  # e_machine
    interpreter: Span | None
    dynamic: Span | None
    written: tuple[Span, ...]  # what the loader writes into, and so reads first
    loads: tuple[_Load, ...]

    def offset_of(self, address: int) -> int | None:
        """Where in the file the byte lies that is loaded at `address`."""
        for load in self.loads:
            if load.address <= address < load.address + load.size:
                return load.offset + address - load.address
        return None


class Needs(NamedTuple):
    """What the dynamic section asks for."""

    libraries: tuple[bytes, ...] = ()
    rpath: bytes = b""
    runpath: bytes = b""


def is_elf(head: bytes) -> bool:
    return head.startswith(b"\x7fELF")


def layout(head: bytes) -> Layout | None:
    """The layout of the file that begins with `head`; None where that is no whole ELF header."""
    if len(head) < 20 or not is_elf(head) or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    fields = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    if len(head) < 16 + fields.size:
        return None
    _, machine, _, _, table, _, _, _, entry_size, count, *_ = fields.unpack_from(head, 16)
    segment = struct.Struct(order + ("IIQQQQQQ" if wide else "8I"))
    if entry_size < segment.size:
        return None
    interpreter = dynamic = None
    written: list[Span] = []
    loads: list[_Load] = []
    for number in range(min(count, MOST_SEGMENTS)):
        at = table + number * entry_size
        if at + segment.size > len(head):
            break
        values = segment.unpack_from(head, at)
        if wide:
            kind, flags, offset, address, _, size, _, _ = values
        else:
            kind, offset, address, _, size, _, flags, _ = values
        if max(offset, address, size) >= _OFFSET_LIMIT:
            continue
        if kind == _PT_LOAD:
            loads.append(_Load(offset, address, size))
            if flags & _PF_W:
                written.append(Span(offset, size))
        elif kind == _PT_INTERP:
            interpreter = Span(offset, min(size, MOST_NAME))
        elif kind == _PT_DYNAMIC:
            dynamic = Span(offset, min(size, MOST_DYNAMIC))
    return Layout(wide, order, machine, interpreter, dynamic, tuple(written), tuple(loads))


def needs(elf: Layout, read: ReadAt) -> Needs:
    """What the dynamic section names; `read(offset, size)` gives bytes of the file, fewer where there are none."""
    if elf.dynamic is None:
        return Needs()
    entries = struct.Struct(elf.order + ("qQ" if elf.wide else "iI"))
    section = read(*elf.dynamic)
    section = section[: len(section) // entries.size * entries.size]
    libraries: list[int] = []
    single: dict[int, int] = {}
    for tag, value in entries.iter_unpack(section):
        if tag == 0:
            break
        if tag == _DT_NEEDED and len(libraries) < MOST_NEEDED:
            libraries.append(value)
        elif tag in (_DT_STRTAB, _DT_RPATH, _DT_RUNPATH):
            single[tag] = value
    table = elf.offset_of(single.get(_DT_STRTAB, -1))
    paths = [single[tag] for tag in (_DT_RPATH, _DT_RUNPATH) if tag in single]
    if table is None or not (wanted := [*libraries, *paths]):
        return Needs()
    first = min(wanted)
    strings = read(table + first, min(max(wanted) - first + MOST_NAME, MOST_STRINGS))

    def text(position: int | None) -> bytes:
        return b"" if position is None else _string(strings, position - first)

    return Needs(
        tuple(name for name in map(text, libraries) if name),
        text(single.get(_DT_RPATH)),
        text(single.get(_DT_RUNPATH)),
    )


def _string(strings: bytes, at: int) -> bytes:
    """The string at a position; empty where it does not end in time."""
    end = strings.find(b"\0", at, at + MOST_NAME)
    return strings[at:end] if end >= 0 else b""
