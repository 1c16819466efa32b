# -- the kernel's protocol: what requests and answers are made of ----------------------------
#
# Role: the structs of linux/fuse.h as far as a read-only server speaks them, how long they may be, and whether a
# request has the parts that its operation needs.  Who has been through `shape` reads them without looking again.
#
# Threads: any, without the GIL; nothing here is shared, and there are no locks.

cdef extern from "fuse_wire.h" nogil:
    struct fuse_in_header:
        uint32_t len
        uint32_t opcode
        uint64_t unique
        uint64_t nodeid
        uint32_t pid
    struct fuse_out_header:
        uint32_t len
        int32_t error
        uint64_t unique
    struct fuse_attr:
        uint64_t ino, size, blocks, atime, mtime, ctime
        uint32_t mode, nlink, uid, gid, rdev, blksize
    struct fuse_entry_out:
        uint64_t nodeid, entry_valid, attr_valid
        fuse_attr attr
    struct fuse_attr_out:
        uint64_t attr_valid
        fuse_attr attr
    struct fuse_open_out:
        uint64_t fh
        uint32_t open_flags
    struct fuse_read_in:
        uint64_t offset
        uint32_t size
    struct fuse_getxattr_in:
        uint32_t size
    struct fuse_getxattr_out:
        uint32_t size
    struct fuse_interrupt_in:
        uint64_t unique
    struct fuse_lseek_in:
        uint64_t offset
        uint32_t whence
    struct fuse_lseek_out:
        uint64_t offset
    struct fuse_kstatfs:
        uint64_t blocks, files
        uint32_t bsize, namelen, frsize
    struct fuse_statfs_out:
        fuse_kstatfs st
    struct fuse_dirent:
        uint64_t ino, off
        uint32_t namelen, type
    struct fuse_direntplus:
        fuse_entry_out entry_out
        fuse_dirent dirent
    struct zerofs_init_in:
        uint32_t major, minor, max_readahead, flags, flags2
    struct zerofs_init_out:
        uint32_t major, minor, max_readahead, flags
        uint16_t max_background, congestion_threshold
        uint32_t max_write, time_gran
        uint16_t max_pages
        uint32_t flags2
    enum:
        FUSE_LOOKUP, FUSE_FORGET, FUSE_GETATTR, FUSE_SETATTR, FUSE_READLINK, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR
        FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_RENAME2, FUSE_LINK, FUSE_OPEN, FUSE_READ, FUSE_WRITE
        FUSE_STATFS, FUSE_RELEASE, FUSE_SETXATTR, FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_REMOVEXATTR, FUSE_INIT
        FUSE_OPENDIR, FUSE_READDIR, FUSE_READDIRPLUS, FUSE_RELEASEDIR, FUSE_CREATE, FUSE_INTERRUPT, FUSE_DESTROY
        FUSE_BATCH_FORGET, FUSE_FALLOCATE, FUSE_TMPFILE, FUSE_LSEEK
        FUSE_ASYNC_READ, FUSE_EXPORT_SUPPORT, FUSE_DO_READDIRPLUS, FUSE_READDIRPLUS_AUTO, FUSE_PARALLEL_DIROPS
        FUSE_CACHE_SYMLINKS, FUSE_NO_OPENDIR_SUPPORT, FUSE_NO_OPEN_SUPPORT, FUSE_MAX_PAGES
        FUSE_EXPLICIT_INVAL_DATA, FUSE_INIT_EXT
        FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR
        FUSE_COMPAT_22_INIT_OUT_SIZE
    uint64_t ZEROFS_HAS_RESEND

cdef enum:
    FOREVER_SECONDS = 1000000000
    REQUEST_SIZE = 65536  # the longest request: a batch of forgets; nothing here takes data
    LISTING_SIZE = 131072  # the most of a directory in one answer
    MOST_READ = 1 << 20
    MOST_PIECES = MOST_READ // 4096 + 3  # a header, and a chunk of at least 4096 bytes each
    MAX_PAGES = 256
    READAHEAD = 1 << 20
    SEEK_DATA = 3
    SEEK_HOLE = 4
    NOT_ANSWERED = -1  # of a malformed request: there is nobody to answer, or nobody waits for it

cdef struct Request:
    fuse_in_header *header
    char *body
    size_t size  # of the body


cdef int shape(char *data, size_t size, Request *request) noexcept nogil:
    """Find the parts of a request that was read: 0, the errno to answer it with, or NOT_ANSWERED.

    The one place where lengths are checked.
    """
    cdef fuse_in_header *header = <fuse_in_header *>data
    cdef size_t least = 0
    cdef bint named = False
    if size < sizeof(fuse_in_header) or header.len != size:
        return NOT_ANSWERED
    request.header = header
    request.body = data + sizeof(fuse_in_header)
    request.size = size - sizeof(fuse_in_header)
    if header.opcode == FUSE_LOOKUP:
        least, named = 1, True
    elif header.opcode == FUSE_READ or header.opcode == FUSE_READDIR or header.opcode == FUSE_READDIRPLUS:
        least = sizeof(fuse_read_in)
    elif header.opcode == FUSE_GETXATTR or header.opcode == FUSE_LISTXATTR:
        least = sizeof(fuse_getxattr_in)
    elif header.opcode == FUSE_INTERRUPT:
        least = sizeof(fuse_interrupt_in)
    elif header.opcode == FUSE_LSEEK:
        least = sizeof(fuse_lseek_in)
    elif header.opcode == FUSE_INIT:
        least = 16  # the first form; the longer ones are looked at by what they announce
    if request.size < least or (named and request.body[request.size - 1] != 0):
        return NOT_ANSWERED if header.opcode == FUSE_INTERRUPT else EINVAL
    return 0
