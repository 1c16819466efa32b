"""``ld.so.cache``: where the libraries of an image lie, as ldconfig wrote it down.

The new format of glibc, alone or behind the old one (``elf/cache.c``, ``sysdeps/generic/dl-cache.h``); the old one
alone, which nobody has written for twenty years, is not read.  The bytes are anybody's.  Stateless.
"""

from __future__ import annotations

import struct

PATH = b"/etc/ld.so.cache"
MOST_SIZE = 4 << 20  # bytes
MOST_LIBRARIES = 1 << 15
MOST_NAME = 4096  # bytes of a name or path

_OLD, _NEW = b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1"
_OLD_ENTRY = 12  # bytes
_HEADER_SIZE = 48
_BIG_ENDIAN = 3  # in the byte of flags
# By e_machine: what the flags of an entry say beside "for glibc" (0x0003).
_ABI = {62: 0x0300, 3: 0x0000, 183: 0x0A00, 40: 0x0900, 22: 0x0400, 21: 0x0500}
_GLIBC = 0x0003


def parse(data: bytes, machine: int) -> dict[bytes, bytes]:
    """Library name → path, for programs of `machine` (e_machine); empty where `data` is no such cache.

    Of several paths the first that is for every processor, as a processor's abilities are not known here.
    """
    start = _start(data)
    if start is None or len(data) < start + _HEADER_SIZE:
        return {}
    order = ">" if data[start + 28] & 3 == _BIG_ENDIAN else "<"
    (count,) = struct.unpack_from(order + "I", data, start + len(_NEW))
    entry = struct.Struct(order + "iIIIQ")
    whole = (len(data) - start - _HEADER_SIZE) // entry.size
    end = start + _HEADER_SIZE + min(count, whole, MOST_LIBRARIES) * entry.size
    wanted = _ABI.get(machine)
    found: dict[bytes, bytes] = {}
    for flags, key, value, _, hwcap in entry.iter_unpack(data[start + _HEADER_SIZE : end]):
        if hwcap or (wanted is not None and flags != wanted | _GLIBC):
            continue
        name, path = _string(data, start + key), _string(data, start + value)
        if name and path.startswith(b"/"):
            found.setdefault(name, path)
    return found


def _start(data: bytes) -> int | None:
    """Where the new format begins."""
    if data.startswith(_NEW):
        return 0
    if not data.startswith(_OLD) or len(data) < 16:
        return None
    for order in "<>":
        (count,) = struct.unpack_from(order + "I", data, len(_OLD))
        start: int = -(-(16 + count * _OLD_ENTRY) // 8) * 8
        if start < len(data) and data.startswith(_NEW, start):
            return start
    return None


def _string(data: bytes, at: int) -> bytes:
    end = data.find(b"\0", at, at + MOST_NAME)
    return data[at:end] if end >= 0 else b""
