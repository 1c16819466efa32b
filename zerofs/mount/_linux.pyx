# cython: boundscheck=False, wraparound=False
"""Linux system calls that Python's standard library does not offer.

Role: thin typed wrappers for mounting, for inotify and for the two calls that tell a mount from a
directory.  No policy: callers decide which flags and what an errno means.  The GIL is released
around every call, since each may wait for a file system.  Every failure is an OSError with errno and path.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

cdef extern from "<sys/mount.h>" nogil:
    int c_mount "mount"(const char *source, const char *target, const char *fstype,
                        unsigned long flags, const void *data)
    int c_umount2 "umount2"(const char *target, int flags)
    unsigned long C_MS_RDONLY "MS_RDONLY"
    unsigned long C_MS_NOSUID "MS_NOSUID"
    unsigned long C_MS_NODEV "MS_NODEV"
    unsigned long C_MS_NOEXEC "MS_NOEXEC"
    unsigned long C_MS_REMOUNT "MS_REMOUNT"
    unsigned long C_MS_NOATIME "MS_NOATIME"
    unsigned long C_MS_BIND "MS_BIND"
    unsigned long C_MS_REC "MS_REC"
    unsigned long C_MS_PRIVATE "MS_PRIVATE"
    int C_MNT_DETACH "MNT_DETACH"
    int C_MNT_FORCE "MNT_FORCE"
    int C_UMOUNT_NOFOLLOW "UMOUNT_NOFOLLOW"

cdef extern from "<malloc.h>" nogil:
    int mallopt(int parameter, int value)
    int M_MMAP_THRESHOLD

cdef extern from "<sched.h>" nogil:
    int c_unshare "unshare"(int flags)
    int C_CLONE_NEWNS "CLONE_NEWNS"
    int C_CLONE_NEWUSER "CLONE_NEWUSER"

cdef extern from "<sys/inotify.h>" nogil:
    int c_inotify_init1 "inotify_init1"(int flags)
    int c_inotify_add_watch "inotify_add_watch"(int fd, const char *path, uint32_t mask)
    int C_IN_CLOEXEC "IN_CLOEXEC"
    int C_IN_NONBLOCK "IN_NONBLOCK"
    uint32_t C_IN_UNMOUNT "IN_UNMOUNT"
    uint32_t C_IN_IGNORED "IN_IGNORED"
    uint32_t C_IN_DELETE_SELF "IN_DELETE_SELF"
    uint32_t C_IN_Q_OVERFLOW "IN_Q_OVERFLOW"
    struct inotify_event:
        int wd
        uint32_t mask
        uint32_t cookie
        uint32_t len

# The C library of an older system has no openat2(), so both structures are spelt out here.
cdef extern from *:
    """
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    #ifndef SYS_openat2
    #define SYS_openat2 437
    #endif

    struct zerofs_open_how { uint64_t flags, mode, resolve; };

    #define ZEROFS_RESOLVE_NO_XDEV 0x01
    #define ZEROFS_RESOLVE_NO_MAGICLINKS 0x02
    #define ZEROFS_RESOLVE_NO_SYMLINKS 0x04

    static int zerofs_open_beneath(int dir_fd, const char *name, int flags)
    {
        struct zerofs_open_how how = {
            .flags = (uint64_t)flags,
            .resolve = ZEROFS_RESOLVE_NO_XDEV | ZEROFS_RESOLVE_NO_MAGICLINKS | ZEROFS_RESOLVE_NO_SYMLINKS,
        };
        return (int)syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    }
    """
    int zerofs_open_beneath(int dir_fd, const char *name, int flags) nogil

# The C library has tgkill() since glibc 2.30 only.
cdef extern from *:
    """
    static int zerofs_tgkill(int thread, int number)
    {
        return (int)syscall(SYS_tgkill, getpid(), thread, number);
    }
    """
    int zerofs_tgkill(int thread, int number) nogil

# Forks into a process of a number that is free, and has it run a program once `gate` has ended.  It runs nothing
# but this: between fork and exec the interpreter is nobody's.
cdef extern from *:
    """
    #include <errno.h>

    #define ZEROFS_CLONE_PARENT 0x8000 /* the child is our sibling, and so is its end signalled */

    #ifndef SYS_clone3
    #define SYS_clone3 435
    #endif

    struct zerofs_clone_args {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    };

    static int zerofs_spawn_as(int process, int gate, int other, const char *path, char **arguments, char **variables)
    {
        int32_t wanted = process;
        struct zerofs_clone_args how = {
            .flags = ZEROFS_CLONE_PARENT, .set_tid = (uint64_t)(uintptr_t)&wanted, .set_tid_size = 1,
        };
        int child = (int)syscall(SYS_clone3, &how, sizeof how);
        char byte;
        if (child != 0)
            return child;
        close(other);
        while (read(gate, &byte, 1) < 0 && errno == EINTR)
            ;
        execve(path, arguments, variables);
        _exit(127);
    }

    static long zerofs_same_file(int one, int other)
    {
        return syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, (unsigned long)one, (unsigned long)other);
    }
    """
    int zerofs_spawn_as(int process, int gate, int other, const char *path, char **arguments, char **variables) nogil
    long zerofs_same_file(int one, int other) nogil

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *buffer, size_t count)

MS_RDONLY = C_MS_RDONLY
MS_NOSUID = C_MS_NOSUID
MS_NODEV = C_MS_NODEV
MS_NOEXEC = C_MS_NOEXEC
MS_NOATIME = C_MS_NOATIME
MS_REMOUNT = C_MS_REMOUNT
MS_BIND = C_MS_BIND
MS_REC = C_MS_REC
MS_PRIVATE = C_MS_PRIVATE
MNT_DETACH = C_MNT_DETACH
MNT_FORCE = C_MNT_FORCE
UMOUNT_NOFOLLOW = C_UMOUNT_NOFOLLOW
CLONE_NEWNS = C_CLONE_NEWNS
CLONE_NEWUSER = C_CLONE_NEWUSER
IN_UNMOUNT = C_IN_UNMOUNT
IN_IGNORED = C_IN_IGNORED
IN_DELETE_SELF = C_IN_DELETE_SELF
IN_Q_OVERFLOW = C_IN_Q_OVERFLOW


cdef int _fail(int number, object path) except -1:
    raise OSError(number, os.strerror(number), path)


def mount(source, target, fstype, unsigned long flags=0, data=None) -> None:
    """mount(2).  `source`, `target` and `data` are str, bytes or path-like; `fstype` and `data` may be None."""
    cdef bytes source_bytes = os.fsencode(source)
    cdef bytes target_bytes = os.fsencode(target)
    cdef bytes fstype_bytes = b"" if fstype is None else os.fsencode(fstype)
    cdef bytes data_bytes = b"" if data is None else os.fsencode(data)
    cdef const char *c_source = source_bytes
    cdef const char *c_target = target_bytes
    cdef const char *c_fstype = NULL
    cdef const void *c_data = NULL
    cdef int result
    cdef int number = 0
    if b"\0" in source_bytes + target_bytes + fstype_bytes + data_bytes:
        raise ValueError("embedded null byte")
    if fstype is not None:
        c_fstype = fstype_bytes
    if data is not None:
        c_data = <const char *>data_bytes
    with nogil:
        result = c_mount(c_source, c_target, c_fstype, flags, c_data)
        if result != 0:
            number = errno
    if result != 0:
        _fail(number, os.fsdecode(target_bytes))


def umount(target, int flags=0) -> None:
    """umount2(2).  `flags`: MNT_DETACH, MNT_FORCE (which aborts a FUSE connection), UMOUNT_NOFOLLOW."""
    cdef bytes target_bytes = os.fsencode(target)
    cdef const char *c_target = target_bytes
    cdef int result
    cdef int number = 0
    if b"\0" in target_bytes:
        raise ValueError("embedded null byte")
    with nogil:
        result = c_umount2(c_target, flags)
        if result != 0:
            number = errno
    if result != 0:
        _fail(number, os.fsdecode(target_bytes))


def unshare(int flags) -> None:
    """unshare(2): leave the namespaces named by `flags` (CLONE_NEWNS, CLONE_NEWUSER) for new ones."""
    cdef int result
    cdef int number = 0
    with nogil:
        result = c_unshare(flags)
        if result != 0:
            number = errno
    if result != 0:
        _fail(number, None)


def open_beneath(int dir_fd, name, int flags) -> int:
    """Open `name` below the directory `dir_fd` without passing a symbolic link or a mount point.

    Raises OSError: EXDEV where a mount (a bind mount too) would be entered, ELOOP at a symbolic link,
    ENOSYS before Linux 5.6.  The descriptor is not inheritable.
    """
    cdef bytes name_bytes = os.fsencode(name)
    cdef const char *c_name = name_bytes
    cdef int all_flags = flags | os.O_CLOEXEC
    cdef int fd
    cdef int number = 0
    if b"\0" in name_bytes:
        raise ValueError("embedded null byte")
    with nogil:
        fd = zerofs_open_beneath(dir_fd, c_name, all_flags)
        if fd < 0:
            number = errno
    if fd < 0:
        _fail(number, os.fsdecode(name_bytes))
    return fd


def tgkill(int thread, int number) -> None:
    """Send the signal `number` to one thread of this process, by its kernel's id."""
    if zerofs_tgkill(thread, number) != 0:
        _fail(errno, None)


def spawn_as(int process, int gate, int other, path, arguments, variables) -> None:
    """Start a process of the id `process`, our parent's child: it closes `other`, awaits the end of `gate`, and runs `path`.

    `arguments` and `variables` (``NAME=value``) are sequences of bytes.  Descriptors are inherited unless they close on
    exec.  Raises OSError: EEXIST where somebody has that id, EPERM without CAP_CHECKPOINT_RESTORE.
    """
    cdef bytes path_bytes = os.fsencode(path)
    cdef const char *c_path = path_bytes
    cdef char **words = NULL
    cdef char **settings = NULL
    cdef int result
    cdef int number = 0
    kept = [list(arguments), list(variables)]
    try:
        words = _strings(kept[0])
        settings = _strings(kept[1])
        with nogil:
            result = zerofs_spawn_as(process, gate, other, c_path, words, settings)
            if result < 0:
                number = errno
    finally:
        free(words)
        free(settings)
    if result < 0:
        _fail(number, None)


cdef char **_strings(list words) except NULL:
    """A terminated array of the strings in `words`, which must outlive it."""
    cdef char **array
    cdef Py_ssize_t at
    cdef bytes word
    array = <char **>calloc(len(words) + 1, sizeof(char *))
    if array == NULL:
        raise MemoryError
    for at in range(len(words)):
        word = words[at]
        array[at] = word
    return array


def is_same_file(int one, int other) -> bool:
    """Whether two descriptors of this process share one open file.  Raises OSError, ENOSYS without kcmp(2)."""
    cdef long result = zerofs_same_file(one, other)
    if result < 0:
        _fail(errno, None)
    return result == 0


def inotify_init() -> int:
    """A new inotify descriptor: non-blocking, not inheritable."""
    cdef int fd
    cdef int number = 0
    with nogil:
        fd = c_inotify_init1(C_IN_CLOEXEC | C_IN_NONBLOCK)
        if fd < 0:
            number = errno
    if fd < 0:
        _fail(number, None)
    return fd


def inotify_add_watch(int fd, path, uint32_t mask) -> int:
    """Watch `path` for the events of `mask`; the number of the watch."""
    cdef bytes path_bytes = os.fsencode(path)
    cdef const char *c_path = path_bytes
    cdef int watch
    cdef int number = 0
    if b"\0" in path_bytes:
        raise ValueError("embedded null byte")
    with nogil:
        watch = c_inotify_add_watch(fd, c_path, mask)
        if watch < 0:
            number = errno
    if watch < 0:
        _fail(number, os.fsdecode(path_bytes))
    return watch


def inotify_read(int fd) -> list:
    """The events that wait on `fd`, as (watch, mask) pairs; BlockingIOError where there is none."""
    cdef uint32_t words[1024]  # of words, so that the records in it are aligned
    cdef char *buffer = <char *>words
    cdef inotify_event event
    cdef ssize_t size
    cdef ssize_t at = 0
    cdef int number = 0
    with nogil:
        size = c_read(fd, buffer, sizeof(words))
        if size < 0:
            number = errno
    if size < 0:
        _fail(number, None)
    events = []
    while at + <ssize_t>sizeof(inotify_event) <= size:
        event = (<inotify_event *>(buffer + at))[0]
        events.append((event.wd, event.mask))
        at += sizeof(inotify_event) + event.len
    return events


def give_back_from(int size):
    """Let every block of memory of `size` bytes and more go back to the system as soon as it is freed.

    Left alone, the allocator raises that bound with what is freed, and keeps what threads used in pieces.
    False where the C library does not take it.
    """
    return mallopt(M_MMAP_THRESHOLD, size) != 0
