"""Who owns an entry: numbers where the flist has them, else names resolved on this host.

Role: older writers recorded user and group names only.  What a name means depends on the host, so
every answer is remembered in :attr:`Owners.names`, which becomes part of the content hash.  Used while
a flist is compiled, never while it is read.  One thread, no locks.
"""

from __future__ import annotations

import grp
import pwd

FALLBACK_ID = 1000  # for a name that the host does not know
MAX_ID = 2**32 - 2  # the last one means "no id" to the kernel
_MAX_OWNER_NAME = 256  # bytes; longer ones are not worth asking the host's name services


class Owners:
    """Resolves owners and remembers each name that it had to resolve."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}  # "u:name" or "g:name" → id

    def user(self, uid: int, name: bytes) -> int:
        """`uid` where it is one, else what `name` means here."""
        return uid if 0 <= uid <= MAX_ID else self._named("u:", name)

    def group(self, gid: int, name: bytes) -> int:
        """`gid` where it is one, else what `name` means here."""
        return gid if 0 <= gid <= MAX_ID else self._named("g:", name)

    def _named(self, kind: str, name: bytes) -> int:
        label = kind + name[:_MAX_OWNER_NAME].decode("utf-8", "surrogateescape")
        if label not in self.names:
            self.names[label] = resolve(label)
        return self.names[label]


def resolve(label: str) -> int:
    """The id of "u:name" or "g:name" on this host: a decimal name is itself, an unknown one 1000."""
    kind, name = label[:2], label[2:]
    if name.isascii() and name.isdigit() and len(name) <= 10 and int(name) <= MAX_ID:
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid if kind == "u:" else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # unknown, or a name that no host can have
        return FALLBACK_ID
