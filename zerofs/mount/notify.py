"""Tell the kernel to forget: notifications written to the FUSE channel.

The tree that a mount serves changes only in a live swap, so the kernel caches names and attributes for
ever, and is told here what no longer holds.  Messages are those of the kernel's ``fuse.h`` (protocol 7.12 and
later): a header of (length, code, 0) and the code's own struct.

Any thread may call this, but not one that serves a request: the kernel takes the directory's lock, for
which a lookup in it may be waiting.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path

_HEADER = struct.Struct("<IiQ")  # length, notification code (in place of an errno), unique (0)
_INVAL_INODE = struct.Struct("<Qqq")  # node id, offset (-1: attributes alone), length
_INVAL_ENTRY = struct.Struct("<QII")  # node id of the directory, bytes of the name, flags
_DEVICE = os.makedev(10, 229)  # the kernel's numbers for /dev/fuse
_CODE_INVAL_INODE = 2
_CODE_INVAL_ENTRY = 3
_CODE_RESEND = 7


def channels() -> set[int]:
    """The descriptors of this process that are open on the FUSE device, whatever it is called here."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            status = os.fstat(int(entry.name))
        except OSError:  # the descriptor of the listing itself
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE:
            found.add(int(entry.name))
    return found


class Notifier:
    """Sends notifications over one FUSE channel."""

    def __init__(self, channel: int) -> None:
        self._channel = channel

    def forget_entry(self, directory: int, name: bytes) -> bool:
        """Drop what is known of `name` in the directory with node id `directory`; False: nothing was known."""
        body = _INVAL_ENTRY.pack(directory, len(name), 0) + name + b"\0"
        return self._send(_CODE_INVAL_ENTRY, body)

    def forget_attributes(self, inode: int) -> bool:
        """Drop the cached attributes (and the cached listing) of a node; False: the node was not known."""
        return self._send(_CODE_INVAL_INODE, _INVAL_INODE.pack(inode, -1, 0))

    def send_again(self) -> None:
        """Have the kernel send every request again that was taken and not answered (Linux 6.9, where negotiated)."""
        self._send(_CODE_RESEND, b"")

    def _send(self, code: int, body: bytes) -> bool:
        try:
            os.write(self._channel, _HEADER.pack(_HEADER.size + len(body), code, 0) + body)
        except OSError as error:
            # ENOTDIR: the directory was replaced by something else, and is unknown with all that it held
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        return True
