"""Tell the kernel to forget: notifications written to the FUSE channel.

The tree that a mount serves changes only in a live swap, so the kernel caches names and attributes for
ever, and is told here what no longer holds.  Messages are those of the kernel's ``fuse.h`` (protocol 7.12 and
later): a header of (length, code, 0) and the code's own struct.

To forget a name the kernel takes the lock of its directory, which whoever looks it up or lists it holds until the
answer, and nothing can interrupt that wait; nor that for pages which are being read, when a union lets go of a file.
Were it a thread of the server that waits, a server that is killed could not end: its channel would stay open, and
nobody would ever answer.  So another process does that work, a small one that is forked for a while
(`Notifier.at_work`).  Where no successor takes the mount over, a second one sees to it that the connection ends with
the server.

Main thread; no locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from zerofs.mount._forked import REMOUNT, fork_watcher, fork_writer

_HEADER = struct.Struct("<IiQ")  # length, notification code (in place of an errno), unique (0)
_INVAL_INODE = struct.Struct("<Qqq")  # node id, offset (-1: attributes alone), length
_INVAL_ENTRY = struct.Struct("<QII")  # node id of the directory, bytes of the name, flags
_DEVICE = os.makedev(10, 229)  # the kernel's numbers for /dev/fuse
_CODE_INVAL_INODE = 2
_CODE_INVAL_ENTRY = 3
_CODE_RESEND = 7
_REMOUNT = struct.Struct("<Q")  # flags; the mount point follows
_RESULT = struct.Struct("<i")  # an errno, for each message that was told
MOST = 128  # messages at a time


class Led(NamedTuple):
    """A name, and the node that it led to.  Nodes are given by their ids."""

    directory: int
    name: bytes
    node: int


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
    """Sends notifications over one FUSE channel.

    `device` is the mount's ("major:minor").  `succeeded`: another process goes on with the mount when this one dies.
    """

    def __init__(self, channel: int, device: str, mountpoint: Path, *, succeeded: bool) -> None:
        self._channel = channel
        self._abortion = Path("/sys/fs/fuse/connections", device.rpartition(":")[2], "abort")
        self._mountpoint = mountpoint
        self._succeeded = succeeded

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Teller]:
        """Somebody to tell the kernel, as long as the block runs.  Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                writer = fork_writer(theirs.fileno(), self._channel)
            with contextlib.ExitStack() as watch:  # until the writer has ended
                try:
                    if not self._succeeded:
                        self._watch(writer, watch)
                    yield Teller(ours)
                finally:
                    ours.close()
                    _await_end(writer)

    def _watch(self, writer: int, stack: contextlib.ExitStack) -> None:
        """Have the connection ended where this process dies while `writer` waits for somebody whom nobody answers."""
        try:
            process = os.pidfd_open(writer)
        except OSError as error:
            if (
                error.errno == errno.ENOSYS
            ):  # before Linux 5.3: who is killed in that moment keeps readers waiting
                return
            raise
        alive, ended = os.pipe2(os.O_CLOEXEC)
        try:
            watcher = fork_watcher(alive, process, self._abortion, self._mountpoint)
        except OSError:
            os.close(ended)
            raise
        finally:
            os.close(alive)
            os.close(process)
        stack.callback(_await_end, watcher)
        stack.callback(os.close, ended)

    def send_again(self) -> None:
        """Have the kernel send every request again that was taken and not answered (Linux 6.9, where negotiated)."""
        os.write(self._channel, _HEADER.pack(_HEADER.size, _CODE_RESEND, 0))


def _await_end(process: int) -> None:
    with contextlib.suppress(
        ChildProcessError
    ):  # where whoever started this process has it ignore its children
        os.waitpid(process, 0)


class Teller:
    """Tells the kernel what it is to forget.  Nodes are given by their ids."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def forget_entries(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Drop what is known of names: (node id of the directory, name)."""
        for batch in _batches(_entry(directory, name) for directory, name in entries):
            self._tell(batch)

    def forget_attributes(self, nodes: Iterable[int]) -> None:
        """Drop the cached attributes (and the cached listing) of nodes."""
        for batch in _batches(map(_attributes, nodes)):
            self._tell(batch)

    def forget_and_ask(self, names: Sequence[Led]) -> list[bool]:
        """Drop what is known of names; whether the nodes that they led to are known.

        Each name is followed by its node at once.  Few of them: they are told in one piece.
        """
        return self._tell(_questions(names))[1::2]

    def remount(self, target: Path, flags: int, names: Sequence[Led] = ()) -> list[bool]:
        """Remount the overlay at `target` in place, with the `flags` of mount(2), and then do the same.

        Nobody gets in between whom nothing kept waiting.  Raises OSError.
        """
        remount = _message(REMOUNT, _REMOUNT.pack(flags) + os.fsencode(target) + b"\0")
        return self._tell([remount, *_questions(names)])[2::2]

    def _tell(self, messages: Sequence[bytes]) -> list[bool]:
        """Whether what each message is about was known."""
        self._connection.sendall(b"".join(messages))
        answer = self._connection.recv(_RESULT.size * len(messages))
        results = [number for (number,) in _RESULT.iter_unpack(answer)]
        for number in results:
            # ENOTDIR: the directory was replaced by something else, and is unknown with all that it held
            if number not in (0, errno.ENOENT, errno.ENOTDIR):
                raise OSError(number, os.strerror(number))
        if len(results) != len(messages):
            raise OSError(errno.EPIPE, "the process that tells the kernel has ended")
        return [number == 0 for number in results]


def _questions(names: Sequence[Led]) -> list[bytes]:
    pairs = ([_entry(led.directory, led.name), _attributes(led.node)] for led in names)
    return [message for pair in pairs for message in pair]


def _entry(directory: int, name: bytes) -> bytes:
    return _message(_CODE_INVAL_ENTRY, _INVAL_ENTRY.pack(directory, len(name), 0) + name + b"\0")


def _attributes(node: int) -> bytes:
    return _message(_CODE_INVAL_INODE, _INVAL_INODE.pack(node, -1, 0))


def _message(code: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), code, 0) + body


def _batches(messages: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    """As many at a time as one datagram surely holds: no message is longer than a name."""
    messages = iter(messages)
    while batch := list(islice(messages, MOST)):
        yield batch
