# -- the channel: what is agreed on with the kernel, and answers to it ------------------------
#
# Role: writes answers to /dev/fuse, each in one gathered write, and none that may hold zeros where the disk could not
# give a page of the index.
#
# Pages that the disk cannot give.  Pieces that lie in the cache are in its mapping for the kernel (`GuardedMap`): the
# gathered write fails with EFAULT, the kernel asks a second time, and then the chunk is checked, found bad and fetched.
# A page of the index reads as zeros, which are in no answer: after such a fault `send` says EIO to everybody,
# until `Engine.mend` has put the file's pages back while no thread works with a view.
#
# Threads: any number answer at once, without the GIL and without a lock: the kernel takes each write whole.  `trust` is
# called while none of them has a view (see views.pxi).

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *iov, int count)

cdef extern from "<errno.h>" nogil:
    int errno


@cython.final
cdef class Channel:
    """A FUSE channel, a descriptor, on which `negotiated` was agreed on (0: nothing yet)."""

    cdef int descriptor
    cdef int guard  # the number of the index's guarded mapping, or -1
    cdef uint32_t mended  # its faults that were dealt with
    cdef bint opens_itself  # the kernel takes ENOSYS for an answer to OPEN and OPENDIR
    cdef bint resends  # the kernel can be asked to send requests again
    cdef uint64_t negotiated

    def __cinit__(self, int descriptor, uint64_t negotiated):
        self.descriptor = descriptor
        self.guard = -1
        self._agree(negotiated)

    cdef int trust(self, IndexMap index) except -1:
        """Answer from `index`, whatever was a fault in it before its pages were last put back."""
        self.guard = -1 if index.guard is None else index.guard.number
        self.mended = 0 if index.guard is None else index.guard.last_restored
        return 0

    cdef int send(self, uint64_t unique, int error, iovec *pieces, int count) noexcept nogil:
        """Write an answer whose first piece is left free for the header; the errno of the write."""
        cdef fuse_out_header header
        cdef size_t total = sizeof(fuse_out_header)
        cdef int i
        if self.guard >= 0 and zerofs_faults(self.guard) != self.mended:
            error, count = EIO, 1  # what the answer was made of may have been zeros
        for i in range(1, count):
            total += pieces[i].iov_len
        header.len = <uint32_t>total
        header.error = -error
        header.unique = unique
        pieces[0].iov_base = &header
        pieces[0].iov_len = sizeof(fuse_out_header)
        # ENOENT: nobody waits for the answer any more; ENODEV: nobody ever will
        return 0 if writev(self.descriptor, pieces, count) >= 0 else errno

    cdef int error(self, uint64_t unique, int error) noexcept nogil:
        cdef iovec pieces[1]
        return self.send(unique, error, pieces, 1)

    cdef int data(self, uint64_t unique, const void *data, size_t size) noexcept nogil:
        cdef iovec pieces[2]
        pieces[1].iov_base = <void *>data
        pieces[1].iov_len = size
        return self.send(unique, 0, pieces, 2)

    cdef void negotiate(self, Request *request) noexcept nogil:
        """Answer INIT: agree on everything that an immutable tree profits from, as far as the kernel knows of it."""
        cdef zerofs_init_in *asked = <zerofs_init_in *>request.body
        cdef zerofs_init_out answer
        cdef uint64_t offered = asked.flags
        cdef uint64_t wanted = (
            FUSE_ASYNC_READ | FUSE_EXPORT_SUPPORT | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO
            | FUSE_PARALLEL_DIROPS | FUSE_CACHE_SYMLINKS | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT
            | FUSE_MAX_PAGES | FUSE_EXPLICIT_INVAL_DATA | FUSE_INIT_EXT | ZEROFS_HAS_RESEND)
        cdef size_t size = sizeof(zerofs_init_out)
        memset(&answer, 0, sizeof(answer))
        answer.major = 7
        answer.minor = 38 if asked.minor > 38 else asked.minor
        if asked.major != 7:  # a newer one asks again, with what it is told; an older one is given up
            answer.minor = 38
            self.data(request.header.unique, &answer, size)
            return
        if offered & FUSE_INIT_EXT and request.size >= sizeof(zerofs_init_in):
            offered |= <uint64_t>asked.flags2 << 32
        wanted &= offered
        self._agree(wanted)
        answer.flags = <uint32_t>wanted
        answer.flags2 = <uint32_t>(wanted >> 32)
        answer.max_readahead = READAHEAD
        answer.max_background = 64
        answer.congestion_threshold = 48
        answer.max_write = 4096
        answer.time_gran = 1000000000
        answer.max_pages = MAX_PAGES
        if asked.minor < 23:
            size = FUSE_COMPAT_22_INIT_OUT_SIZE
        self.data(request.header.unique, &answer, size)

    cdef void _agree(self, uint64_t flags) noexcept nogil:
        self.opens_itself = flags & FUSE_NO_OPEN_SUPPORT != 0 and flags & FUSE_NO_OPENDIR_SUPPORT != 0
        self.resends = flags & ZEROFS_HAS_RESEND != 0
        self.negotiated = flags
