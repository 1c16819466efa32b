"""What guesses look into: ELF files, the cache of the loader, scripts, modules; nothing but names in them comes out."""

from __future__ import annotations

import struct

from zerofs.prefetch.guess import elf, ldcache, modules, script


def target(data: bytes) -> None:
    kind, data = data[:1].ljust(1, b"\0")[0] % 4, data[1:]
    (check_elf, _cache, _script, _module)[kind](data)


def check_elf(data: bytes) -> None:
    """Reads little, names little, and nothing that is not in `data`."""
    reads: list[int] = []

    def read(offset: int, size: int) -> bytes:
        assert offset >= 0
        reads.append(size)
        return data[offset : offset + size]

    layout = elf.layout(data[: elf.HEAD])
    if layout is None:
        return
    assert layout.interpreter is None or layout.interpreter.size <= elf.MOST_NAME
    needs = elf.needs(layout, read)
    assert len(layout.loads) <= elf.MOST_SEGMENTS and len(layout.written) <= elf.MOST_SEGMENTS
    assert len(reads) <= 2 and all(0 <= size <= elf.MOST_STRINGS for size in reads)
    assert len(needs.libraries) <= elf.MOST_NEEDED
    assert all(0 < len(name) <= elf.MOST_NAME and name in data for name in needs.libraries)


def _cache(data: bytes) -> None:
    for machine in (62, 40, 0):
        found = ldcache.parse(data, machine)
        assert len(found) <= ldcache.MOST_LIBRARIES
        assert all(name in data and path in data and path.startswith(b"/") for name, path in found.items())


def _script(data: bytes) -> None:
    for places in script.programs(data):
        assert places and all(places)


def _module(data: bytes) -> None:
    for compiled in (False, True):
        names = modules.mentioned(data, compiled=compiled)
        assert len(names) <= modules.MOST_MENTIONED and all(names)


def samples() -> list[bytes]:
    dynamic = b"".join(struct.pack("<qQ", tag, value) for tag, value in ((5, 400), (1, 1), (29, 8), (0, 0)))
    header = (
        b"\x7fELF\2\1" + bytes(10) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    )
    segments = b"".join(
        struct.pack("<IIQQQQQQ", kind, 6, offset, offset, 0, size, size, 8)
        for kind, offset, size in ((1, 0, 4096), (2, 300, len(dynamic)), (3, 380, 10))
    )
    program = (header + segments).ljust(300, b"\0") + dynamic
    program = program.ljust(400, b"\0") + b"\0libc.so\0$ORIGIN/lib\0"
    entry = struct.pack("<iIIIQ", 0x0303, 72, 80, 0, 0)
    cache = (
        b"glibc-ld.so.cache1.1" + struct.pack("<II", 1, 20) + bytes(20) + entry + b"libc.so\0/lib/libc.so\0"
    )
    return [
        b"\0" + program,
        b"\1" + cache,
        b"\2#!/usr/bin/env -S FOO=1 python3 -u\n",
        b"\3import os.path, sys\nfrom a.b import c\n\xda\x03abc\xfa\x07os.path",
    ]
