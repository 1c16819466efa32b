# cython: boundscheck=False, wraparound=False
"""The processes that are forked to wait for the kernel in place of a server; see ``forked.h`` and `zerofs.mount.notify`.

The GIL is released around each fork.  Every failure is an OSError with errno.
"""

import os

from libc.errno cimport errno

cdef extern from "forked.h" nogil:
    int zerofs_fork_writer(int requests, int channel)
    int zerofs_fork_watcher(int alive, int writer, const char *abortion, const char *mountpoint)
    int ZEROFS_REMOUNT

REMOUNT = ZEROFS_REMOUNT


def fork_writer(int requests, int channel) -> int:
    """Fork a process that writes to `channel` what it is told to by `requests`, a seqpacket socket; its id.

    Each datagram holds whole messages, each with its length in the first four bytes, 64 KiB and 4,096 of them at most.  It
    is answered by a 32-bit errno (0: written) for each.  One with the code `REMOUNT` is not written: its body is the
    flags (64 bits) and the mount point (ended by 0) of an overlay to be remounted.  The process ends with the other end
    of the socket.
    """
    cdef int child
    cdef int number = 0
    with nogil:
        child = zerofs_fork_writer(requests, channel)
        if child < 0:
            number = errno
    if child < 0:
        raise OSError(number, os.strerror(number))
    return child


def fork_watcher(int alive, int writer, abortion, mountpoint) -> int:
    """Fork a process that awaits the end of `alive` (a pipe); its id.  Ends the FUSE connection if `writer` (a pidfd) waits on.

    By the file `abortion` of fusectl, or by umount2 of `mountpoint`.
    """
    cdef bytes abortion_bytes = os.fsencode(abortion)
    cdef bytes mountpoint_bytes = os.fsencode(mountpoint)
    cdef const char *c_abortion = abortion_bytes
    cdef const char *c_mountpoint = mountpoint_bytes
    cdef int child
    cdef int number = 0
    with nogil:
        child = zerofs_fork_watcher(alive, writer, c_abortion, c_mountpoint)
        if child < 0:
            number = errno
    if child < 0:
        raise OSError(number, os.strerror(number))
    return child
