# -- the fast engine: the kernel's protocol without the interpreter ------------------------
#
# Threads call `Engine.serve`; each takes requests from /dev/fuse and answers from the mapped tables and the
# chunk table without the GIL.  A chunk that is not in the table is looked up in the cache without it, too.  The GIL is taken once in a
# generation to begin it, to ask py-lmdb where that look-up is unsure, to park a read whose chunk is not there, and
# for what only happens after a live swap.
#
# What keeps memory valid.  All that a request reads hangs on one `View`: the tables of an index, and the chunk
# table with the number of its generation.  A thread publishes the view that it works with (`Worker.view`)
# and looks again whether it still is the current one; whoever replaces the current view first makes the new
# one current and then waits until no thread has the old one published.  Either the thread sees the new view,
# or the replacer sees the thread's: nothing is freed under a reader.
#
# A slot of the chunk table counts only when it carries the generation of the view; its address lies in LMDB's map and
# holds its bytes as long as the generation's snapshot, which is released after the last reader of the generation has
# left.  So does the tree that is walked for a chunk (`View.tree`, see lmdbtree.pxi): who walks has the view published.  There
# are two tables of slots, taken in turns: threads of a generation and of the next may be at work at once, never of one
# and the one after next, so no thread writes into a slot that another generation reads.  Threads of one generation
# may fill a slot at once: they found the same.
# Generations end within a second or two (`renew`), so no snapshot pins old pages for long; an idle mount
# has none.
#
# Pages that the disk cannot give.  The chunk table points into the mapping for the kernel (`GuardedMap`): the gathered
# write fails with EFAULT, the kernel asks a second time, and then the chunk is checked, found bad and fetched.  A page of the index reads as zeros, which are in no answer: after such a
# fault `_send` says EIO to everybody, until `mend` has put the file's pages back while no thread works with a view.

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
    struct fuse_forget_in:
        uint64_t nlookup
    struct fuse_batch_forget_in:
        uint32_t count
    struct fuse_forget_one:
        uint64_t nodeid, nlookup
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
    void *zerofs_load_pointer(void *const *place) noexcept
    void zerofs_store_pointer(void **place, void *value) noexcept

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *iov, int count)

cdef extern from "<unistd.h>" nogil:
    ssize_t posix_read "read" (int fd, void *buf, size_t count)
    int usleep(unsigned int microseconds)

cdef extern from "<errno.h>" nogil:
    int errno

cdef enum:
    FOREVER_SECONDS = 1000000000
    REQUEST_SIZE = 65536  # the longest request: a batch of forgets; nothing here takes data
    LISTING_SIZE = 131072  # the most of a directory in one answer
    MOST_READ = 1 << 20
    MOST_PIECES = MOST_READ // 4096 + 3  # a header, and a chunk of at least 4096 bytes each
    MAX_PAGES = 256
    READAHEAD = 1 << 20
    MOST_WORKERS = 16
    MOST_EARLY = 1024  # interrupts of reads that are not parked: nearly all of them have been answered
    SEEK_DATA = 3
    SEEK_HOLE = 4

cdef struct Slot:
    const char *data
    uint32_t length
    uint32_t generation  # the generation in which `data` holds; 0: none

cdef struct View:
    Tables tables
    Slot *slots  # one a chunk
    Slot *former  # those of the generation before this one, and of the next
    uint32_t generation
    uint32_t is_pinned  # whether there is a `tree`, that of the generation's snapshot
    Tree tree
    uint64_t total_size  # bytes of all files

cdef struct Worker:
    void *view  # the view that this thread works with, or NULL: read by whoever replaces it
    char *request
    char *listing
    Notes *notes
    uint64_t reads  # answered without waiting; this thread alone counts, and writes here anyway
    uint64_t bytes
    uint64_t failed
    uint64_t padding[9]  # wherever this begins, no two of them share a line of the processor's cache

cdef struct Request:
    fuse_in_header *header
    char *body
    size_t size  # of the body


@cython.final
cdef class _Parked:
    """A READ that waits for chunks."""

    cdef uint64_t unique
    cdef uint32_t pid
    cdef uint64_t row
    cdef uint64_t offset
    cdef uint64_t size
    cdef dict plain  # chunk number → its bytes; for those that came while this waits
    cdef int missing
    cdef int rounds
    cdef bint failed
    cdef bint interrupted


@cython.final
cdef class Engine:
    """Serves an `IndexMap` on a FUSE channel, a descriptor on which nothing has been answered yet.

    `request(index, number, done)` asks for a chunk; `done(number, plain bytes or None)` is called once, from any
    thread.  `report(error)` is told why reads fail that no `request` failed for.  `cache` is that of `CachedChunks`,
    `observer` is that of `Touches`.  `swap` and `renew` belong to one thread at a time.

    A successor takes a channel over on which another engine has answered: it is told what that one had `negotiated`,
    shares the memory of its `counts` (a descriptor), and goes on with what it had `replaced`.  Requests that the kernel
    sends again carry another number than at first (its highest bit is set), and are answered under that one.
    """

    cdef int channel
    cdef IndexMap index
    cdef CachedChunks chunks
    cdef Touches touches
    cdef Lingering lingering
    cdef object request_chunk
    cdef object report
    cdef object snapshot  # of the current generation; None until a chunk is wanted
    cdef object finding  # a lock around the use of `snapshot` by way of py-lmdb
    cdef object kill_pending
    cdef dict parked  # unique → _Parked
    cdef dict early  # uniques of interrupts that met no parked read, the oldest first: it may be about to be parked
    cdef void *current  # the View
    cdef Worker workers[MOST_WORKERS]
    cdef int worker_count
    cdef uint64_t late_reads  # answered after a wait; these are counted under the GIL
    cdef uint64_t late_bytes
    cdef uint64_t waited
    cdef uint64_t failed
    cdef int guard  # the number of the index's guarded mapping, or -1
    cdef uint32_t mended  # its faults that `mend` has dealt with
    cdef bint opens_itself  # the kernel takes ENOSYS for an answer to OPEN and OPENDIR
    cdef readonly bint resends  # the kernel can be asked to send requests again
    cdef readonly uint64_t negotiated  # what was agreed on at INIT, 0 before that: a successor is told it
    cdef uint32_t halted  # threads take no further request

    def __cinit__(self, int channel, IndexMap index not None, *, cache, request, report, kill_pending,
                  uint64_t total_size=0, observer=None, uint64_t negotiated=0, counts=None, replaced=()):
        self.channel = channel
        self.chunks = CachedChunks(cache)
        self.touches = Touches(observer)
        self.lingering = Lingering(counts)
        self.request_chunk = request
        self.report = report
        self.kill_pending = kill_pending
        self.finding = Lock()
        self.parked = {}
        self.early = {}
        self.current = NULL
        self.guard = -1
        self.halted = 0
        self._agree(negotiated)
        self.swap(index, total_size, replaced)

    def __dealloc__(self):
        cdef int i
        cdef View *view = <View *>self.current
        if view != NULL:
            _free_view(view)
        for i in range(self.worker_count):
            free(self.workers[i].request)
            free(self.workers[i].listing)
            free(self.workers[i].notes)

    # -- views -----------------------------------------------------------------------------

    def swap(self, IndexMap index not None, uint64_t total_size=0, replaced=()):
        """Serve `index`, which knows all rows and chunks of the one before, from now on; see `Operations.swap`."""
        cdef View *old = <View *>self.current
        cdef View *view = <View *>calloc(1, sizeof(View))
        if view == NULL:
            raise MemoryError
        view.slots = <Slot *>calloc(index.tables.chunk_count + 1, sizeof(Slot))
        view.former = <Slot *>calloc(index.tables.chunk_count + 1, sizeof(Slot))
        if view.slots == NULL or view.former == NULL:
            _free_view(view)
            raise MemoryError
        view.tables = index.tables
        view.generation = 1 if old == NULL else old.generation + 1
        view.total_size = total_size
        try:
            self.chunks.grow(index.tables.chunk_count)
            self.touches.grow(index.tables.chunk_count)
        except BaseException:
            _free_view(view)
            raise
        # threads mark nodes of the old tables only while they have the old view: none has any now
        self._make_current(NULL)
        self._end_snapshot()
        if old != NULL:
            _free_view(old)
        self.lingering.swap(index.tables.node_count, replaced)
        self.index = index
        self.guard = -1 if index.guard is None else index.guard.number
        self.mended = 0 if index.guard is None else index.guard.last_restored
        self._make_current(view)

    def mend(self):
        """Try pages of the index again that the disk could not give: until then every request is answered with EIO."""
        cdef View *view = <View *>self.current
        if self.index.is_whole():
            return False
        self.report(_unreadable())
        self._make_current(NULL)  # no thread has read a page of zeros, and not looked yet, when this returns
        try:
            self.index.guard.restore()
            self.mended = self.index.guard.last_restored
        finally:
            self._make_current(view)
        return True

    def renew(self):
        """End the generation, if anything was found in the cache in it; True where that was so."""
        cdef View *old = <View *>self.current
        cdef View *view
        if self.snapshot is None:
            return False
        view = <View *>calloc(1, sizeof(View))
        if view == NULL:
            raise MemoryError
        view[0] = old[0]
        view.generation += 1
        view.slots, view.former = old.former, old.slots
        view.is_pinned = 0
        snapshot, self.snapshot = self.snapshot, None
        self._make_current(view)
        free(old)
        snapshot.release()
        return True

    cdef int _end_snapshot(self) except -1:
        snapshot, self.snapshot = self.snapshot, None
        if snapshot is not None:
            snapshot.release()
        return 0

    cdef int _make_current(self, View *view) except -1:
        """Make `view` current, and return when no thread works with another (NULL: with any)."""
        cdef int i
        cdef void *seen
        with nogil:
            zerofs_store_pointer(&self.current, view)
            for i in range(self.worker_count):
                while True:
                    seen = zerofs_load_pointer(&self.workers[i].view)
                    if seen == NULL or seen == view:
                        break
                    usleep(20)
        return 0

    cdef View *_enter(self, Worker *worker) noexcept nogil:
        """The current view, which stays until `_leave`."""
        cdef void *view
        while True:
            view = zerofs_load_pointer(&self.current)
            zerofs_store_pointer(&worker.view, view)
            if view != NULL and zerofs_load_pointer(&self.current) == view:
                return <View *>view
            zerofs_store_pointer(&worker.view, NULL)
            usleep(20)  # a swap is under way

    cdef void _leave(self, Worker *worker) noexcept nogil:
        zerofs_store_pointer(&worker.view, NULL)

    # -- the loop --------------------------------------------------------------------------

    def add_worker(self) -> int:
        """The number of a new worker, for `serve`.  Call it before any thread serves."""
        cdef Worker *worker
        if self.worker_count == MOST_WORKERS:
            raise ValueError("too many workers")
        worker = &self.workers[self.worker_count]
        worker.view = NULL
        worker.request = <char *>malloc(REQUEST_SIZE)
        worker.listing = <char *>malloc(LISTING_SIZE)
        worker.notes = <Notes *>calloc(1, sizeof(Notes))
        self.worker_count += 1
        if worker.request == NULL or worker.listing == NULL or worker.notes == NULL:
            raise MemoryError
        return self.worker_count - 1

    def serve(self, int number):
        """Answer requests until the file system is unmounted (returns 0), the channel fails (its errno), or
        `halt` was called (-1)."""
        cdef int result
        if not 0 <= number < self.worker_count:
            raise ValueError("no such worker")
        with nogil:
            result = self._serve(&self.workers[number])
        return result

    cdef int _serve(self, Worker *worker) noexcept nogil:
        cdef ssize_t size
        cdef Request request
        while not zerofs_load(&self.halted):
            size = posix_read(self.channel, worker.request, REQUEST_SIZE)
            if size < 0:
                if errno == EINTR or errno == EAGAIN or errno == ENOENT:
                    continue  # ENOENT: the request was interrupted before it was read
                return 0 if errno == ENODEV or errno == ECONNABORTED else errno  # unmounted, aborted
            if size == 0:
                return 0
            if not self._shape(worker, size, &request):
                continue
            self._answer(worker, &request)
        return -1

    def halt(self):
        """Have every thread return from `serve` once it has answered, or parked, the request that it took.

        One that waits for a request must be interrupted, by a signal.  Reads that are parked are answered as ever.
        """
        zerofs_store(&self.halted, 1)

    def go_on(self):
        """Undo `halt`, when no thread serves."""
        zerofs_store(&self.halted, 0)

    cdef bint _shape(self, Worker *worker, size_t size, Request *request) noexcept nogil:
        """Whether the request has the parts that its operation needs: the one place where lengths are checked."""
        cdef fuse_in_header *header = <fuse_in_header *>worker.request
        cdef size_t least
        cdef bint named = False
        if size < sizeof(fuse_in_header) or header.len != size:
            return False  # nobody to answer
        request.header = header
        request.body = worker.request + sizeof(fuse_in_header)
        request.size = size - sizeof(fuse_in_header)
        least = 0
        if header.opcode == FUSE_LOOKUP:
            least, named = 1, True
        elif header.opcode == FUSE_READ or header.opcode == FUSE_READDIR or header.opcode == FUSE_READDIRPLUS:
            least = sizeof(fuse_read_in)
        elif header.opcode == FUSE_GETXATTR or header.opcode == FUSE_LISTXATTR:
            least = sizeof(fuse_getxattr_in)
        elif header.opcode == FUSE_FORGET:
            least = sizeof(fuse_forget_in)
        elif header.opcode == FUSE_BATCH_FORGET:
            least = sizeof(fuse_batch_forget_in)
            if request.size >= least:
                least += <size_t>(<fuse_batch_forget_in *>request.body).count * sizeof(fuse_forget_one)
        elif header.opcode == FUSE_INTERRUPT:
            least = sizeof(fuse_interrupt_in)
        elif header.opcode == FUSE_LSEEK:
            least = sizeof(fuse_lseek_in)
        elif header.opcode == FUSE_INIT:
            least = 16  # the first form; the longer ones are looked at by what they announce
        if request.size < least or (named and request.body[request.size - 1] != 0):
            if header.opcode not in (FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT):
                self._error(header.unique, EINVAL)
            return False
        return True

    cdef int _send(self, uint64_t unique, int error, iovec *pieces, int count) noexcept nogil:
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
        return 0 if writev(self.channel, pieces, count) >= 0 else errno

    cdef int _error(self, uint64_t unique, int error) noexcept nogil:
        cdef iovec pieces[1]
        return self._send(unique, error, pieces, 1)

    cdef int _data(self, uint64_t unique, const void *data, size_t size) noexcept nogil:
        cdef iovec pieces[2]
        pieces[1].iov_base = <void *>data
        pieces[1].iov_len = size
        return self._send(unique, 0, pieces, 2)

    cdef void _answer(self, Worker *worker, Request *request) noexcept nogil:
        cdef uint32_t opcode = request.header.opcode
        cdef uint64_t unique = request.header.unique
        cdef uint64_t row
        cdef View *view
        if opcode == FUSE_INIT:
            self._init(request)
            return
        if opcode == FUSE_FORGET:
            self._forget(worker, request.header.nodeid, (<fuse_forget_in *>request.body).nlookup)
            self._release_lingering()
            return
        if opcode == FUSE_BATCH_FORGET:
            self._batch_forget(worker, request)
            return
        if opcode == FUSE_INTERRUPT:
            self._interrupt((<fuse_interrupt_in *>request.body).unique)
            return
        if opcode == FUSE_DESTROY or opcode == FUSE_RELEASE or opcode == FUSE_RELEASEDIR:
            self._error(unique, 0)
            return
        view = self._enter(worker)
        row = request.header.nodeid - 1
        if request.header.nodeid == 0 or row >= view.tables.node_count:
            self._error(unique, ENOENT)
        elif opcode == FUSE_LOOKUP:
            self._lookup(view, row, unique, request.body)
        elif opcode == FUSE_GETATTR:
            self._getattr(view, row, unique)
        elif opcode == FUSE_READ:
            self._read(worker, view, row, request)
            return  # it has left the view
        elif opcode == FUSE_READDIR or opcode == FUSE_READDIRPLUS:
            self._readdir(worker, view, row, request, opcode == FUSE_READDIRPLUS)
        elif opcode == FUSE_READLINK:
            self._readlink(view, row, unique)
        elif opcode == FUSE_OPEN or opcode == FUSE_OPENDIR:
            self._open(unique, request.header.nodeid, opcode == FUSE_OPENDIR)
        elif opcode == FUSE_GETXATTR:
            self._error(unique, ENODATA)
        elif opcode == FUSE_LISTXATTR:
            self._listxattr(unique, (<fuse_getxattr_in *>request.body).size)
        elif opcode == FUSE_STATFS:
            self._statfs(view, unique)
        elif opcode == FUSE_LSEEK:
            self._lseek(view, row, unique, <fuse_lseek_in *>request.body)
        elif opcode in (FUSE_SETATTR, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME,
                        FUSE_RENAME2, FUSE_LINK, FUSE_WRITE, FUSE_SETXATTR, FUSE_REMOVEXATTR, FUSE_CREATE,
                        FUSE_FALLOCATE, FUSE_TMPFILE):
            self._error(unique, EROFS)
        else:
            self._error(unique, ENOSYS)
        self._leave(worker)

    # -- answers ---------------------------------------------------------------------------

    cdef void _init(self, Request *request) noexcept nogil:
        """Agree with the kernel on everything that an immutable tree profits from, as far as it knows of it."""
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
            self._data(request.header.unique, &answer, size)
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
        self._data(request.header.unique, &answer, size)

    cdef void _agree(self, uint64_t flags) noexcept nogil:
        self.opens_itself = flags & FUSE_NO_OPEN_SUPPORT != 0 and flags & FUSE_NO_OPENDIR_SUPPORT != 0
        self.resends = flags & ZEROFS_HAS_RESEND != 0
        self.negotiated = flags

    cdef void _open(self, uint64_t unique, uint64_t inode, bint directory) noexcept nogil:
        cdef fuse_open_out answer
        if self.opens_itself:
            self._error(unique, ENOSYS)  # from now on the kernel opens by itself, and keeps its caches
            return
        memset(&answer, 0, sizeof(answer))
        answer.open_flags = FOPEN_KEEP_CACHE | (FOPEN_CACHE_DIR if directory else 0)
        self._data(unique, &answer, sizeof(answer))

    cdef void _lookup(self, View *view, uint64_t row, uint64_t unique, const char *name) noexcept nogil:
        cdef fuse_entry_out answer
        cdef size_t length = strlen(name)
        cdef int64_t found = -1
        cdef bint lingers = False
        if not is_directory(&view.tables, row):
            self._error(unique, ENOTDIR)
            return
        if view.tables.nodes[row].count == MISSING:
            self._error(unique, EIO)
            return
        if length > 255:
            self._error(unique, ENAMETOOLONG)
            return
        memset(&answer, 0, sizeof(answer))
        answer.entry_valid = FOREVER_SECONDS
        if self.lingering.any:
            found = self._find_lingering(row, name)
            lingers = found >= 0
        if found < 0:
            if length == 1 and name[0] == c'.':
                found = row
            elif length == 2 and name[0] == c'.' and name[1] == c'.':
                found = view.tables.nodes[row].parent
            else:
                found = find_child(&view.tables, row, name, length)
        if found >= 0:
            self.lingering.mark(found)
            _fill_entry(&view.tables, found, &answer)
            if lingers:
                answer.entry_valid = 0
        self._data(unique, &answer, sizeof(answer))  # node id 0: the kernel remembers that there is no such name

    cdef int64_t _find_lingering(self, uint64_t row, const char *name) noexcept with gil:
        try:
            return self.lingering.find(row, <bytes>name)
        except BaseException:
            log.exception("looking up a name that a swap replaced")
            return -1

    cdef void _getattr(self, View *view, uint64_t row, uint64_t unique) noexcept nogil:
        cdef fuse_attr_out answer
        memset(&answer, 0, sizeof(answer))
        answer.attr_valid = FOREVER_SECONDS
        _fill_attributes(&view.tables, row, &answer.attr)
        self._data(unique, &answer, sizeof(answer))

    cdef void _readlink(self, View *view, uint64_t row, uint64_t unique) noexcept nogil:
        cdef const NodeRow *node = &view.tables.nodes[row]
        cdef char target[4095]
        cdef uint32_t length = min(<uint32_t>sizeof(target), node.count)
        if node.mode & TYPE_MASK != TYPE_LINK:
            self._error(unique, EINVAL)
            return
        # copied before `_send` looks for faults: sent from the map itself, it could become zeros after that
        memcpy(target, view.tables.names + node.first, length)
        self._data(unique, target, length)

    cdef void _listxattr(self, uint64_t unique, uint32_t size) noexcept nogil:
        cdef fuse_getxattr_out answer
        if size:
            self._error(unique, 0)  # an empty list
            return
        memset(&answer, 0, sizeof(answer))
        self._data(unique, &answer, sizeof(answer))

    cdef void _statfs(self, View *view, uint64_t unique) noexcept nogil:
        cdef fuse_statfs_out answer
        memset(&answer, 0, sizeof(answer))
        answer.st.bsize = answer.st.frsize = 4096
        answer.st.blocks = (view.total_size + 4095) // 4096
        answer.st.files = view.tables.node_count
        answer.st.namelen = 255
        self._data(unique, &answer, sizeof(answer))

    cdef void _lseek(self, View *view, uint64_t row, uint64_t unique, fuse_lseek_in *asked) noexcept nogil:
        """A file is all data: the only hole is the one at its end."""
        cdef fuse_lseek_out answer
        cdef uint64_t size = view.tables.nodes[row].size
        if asked.whence not in (SEEK_DATA, SEEK_HOLE):
            self._error(unique, EINVAL)
        elif asked.offset >= size:
            self._error(unique, ENXIO)
        else:
            answer.offset = asked.offset if asked.whence == SEEK_DATA else size
            self._data(unique, &answer, sizeof(answer))

    cdef void _readdir(self, Worker *worker, View *view, uint64_t row, Request *request, bint plus) noexcept nogil:
        """Entries from the offset on, as many as fit; 0 and 1 are `.` and `..`."""
        cdef fuse_read_in *asked = <fuse_read_in *>request.body
        cdef const Tables *tables = &view.tables
        cdef const NodeRow *node = &tables.nodes[row]
        cdef const ChildRow *child
        cdef fuse_dirent *entry
        cdef uint64_t position = asked.offset
        cdef uint64_t target
        cdef size_t room = min(<uint32_t>LISTING_SIZE, asked.size)
        cdef size_t used = 0, need
        cdef size_t head = sizeof(fuse_direntplus) if plus else sizeof(fuse_dirent)
        cdef const char *name
        cdef uint32_t length, kind
        if node.mode & TYPE_MASK != TYPE_DIR:
            self._error(request.header.unique, ENOTDIR)
            return
        if node.count == MISSING:
            self._error(request.header.unique, EIO)
            return
        while position < <uint64_t>node.count + 2:
            if position < 2:
                target = row if position == 0 else node.parent
                name, length, kind = "..", <uint32_t>position + 1, TYPE_DIR
            else:
                child = &tables.children[node.first + position - 2]
                target, name, length, kind = child.node, tables.names + child.name, child.name_length, child.kind
            need = (head + length + 7) & ~<size_t>7
            if used + need > room:
                break
            memset(worker.listing + used, 0, need)
            entry = <fuse_dirent *>(worker.listing + used)
            if plus:
                if position >= 2:
                    _fill_entry(tables, target, <fuse_entry_out *>entry)
                    (<fuse_entry_out *>entry).entry_valid = FOREVER_SECONDS
                    self.lingering.mark(target)
                entry = &(<fuse_direntplus *>entry).dirent
            entry.ino = target + 1
            entry.off = position + 1
            entry.namelen = length
            entry.type = kind >> 12
            memcpy(worker.listing + used + head, name, length)
            used += need
            position += 1
        self._data(request.header.unique, worker.listing, used)

    # -- forgetting ------------------------------------------------------------------------

    cdef void _forget(self, Worker *worker, uint64_t inode, uint64_t lookups) noexcept nogil:
        cdef View *view = self._enter(worker)
        if 0 < inode <= view.tables.node_count:
            self.lingering.unmark(inode - 1, lookups)
        self._leave(worker)

    cdef void _batch_forget(self, Worker *worker, Request *request) noexcept nogil:
        cdef uint32_t i
        cdef fuse_forget_one *forgets = <fuse_forget_one *>(request.body + sizeof(fuse_batch_forget_in))
        for i in range((<fuse_batch_forget_in *>request.body).count):
            self._forget(worker, forgets[i].nodeid, forgets[i].nlookup)
        self._release_lingering()

    cdef void _release_lingering(self) noexcept nogil:
        if self.lingering.any:
            self._release_with_gil()

    cdef void _release_with_gil(self) noexcept with gil:
        try:
            self.lingering.release()
        except BaseException:
            log.exception("forgetting names that a swap replaced")

    def lingering_names(self) -> list:
        """The (row of the directory, name) pairs that still lead to a node of before a swap."""
        return list(self.lingering.names)

    def lingering_nodes(self) -> list:
        """The same with the old row that each leads to, as `swap` takes them."""
        return list(self.lingering.names.items())

    def forgotten(self, uint64_t row):
        """The kernel does not know this node, whatever was counted: a request that was sent again counts twice."""
        self.lingering.forget(row)

    # -- reading ---------------------------------------------------------------------------

    cdef void _read(self, Worker *worker, View *view, uint64_t row, Request *request) noexcept nogil:
        """Answer from the mapped cache in one gathered write, or park the request.  Leaves the view."""
        cdef fuse_read_in *asked = <fuse_read_in *>request.body
        cdef uint64_t unique = request.header.unique
        cdef uint64_t offset = asked.offset, size = asked.size
        cdef NodeRow copy = view.tables.nodes[row]  # checked once, whatever becomes of its page
        cdef const NodeRow *node = &copy
        cdef uint64_t first, last
        cdef int ready, error
        if node.mode & TYPE_MASK != TYPE_FILE or size > MOST_READ:
            self._error(unique, EISDIR if node.mode & TYPE_MASK == TYPE_DIR else EINVAL)
            self._leave(worker)
            return
        if offset >= node.size or size == 0:
            self._data(unique, NULL, 0)
            self._leave(worker)
            return
        size = min(size, node.size - offset)
        if node.block_size == 0 or (offset + size - 1) // node.block_size >= node.count:
            self._error(unique, EIO)
            self._leave(worker)
            self._report_hole(row)
            return
        while True:
            error = self._send_mapped(view, node, unique, offset, size)
            if error >= 0:
                if error == EFAULT:  # the disk cannot give a page of the cache, and the kernel has made EIO of it
                    self._forget_chunks(view, node, offset, size)
                    zerofs_tally(&worker.failed, 1)
                self._leave(worker)
                if error == 0:
                    zerofs_tally(&worker.reads, 1)
                    zerofs_tally(&worker.bytes, size)
                return
            first, last = offset // node.block_size, (offset + size - 1) // node.block_size
            if self._fill(view, node, first, last) == FOUND:
                if self.touches.note(worker.notes, &view.tables, node, row, first, last):
                    continue
            ready = self._prepare(view, row, unique, request.header.pid, offset, size)
            self._leave(worker)
            if ready <= 0:
                return  # parked, or failed and answered
            view = self._enter(worker)  # where the generation ended meanwhile this is the next one
            copy = view.tables.nodes[row]
            if copy.block_size == 0:
                zerofs_tally(&worker.failed, 1)
                self._error(unique, EIO)
                self._leave(worker)
                return

    cdef void _report_hole(self, uint64_t row) noexcept with gil:
        self.failed += 1
        try:
            self.report(_hole(row))
        except BaseException:
            log.exception("reporting a failed read")

    cdef int _send_mapped(self, View *view, const NodeRow *node, uint64_t unique, uint64_t offset,
                          uint64_t size) noexcept nogil:
        """Answer if all chunks are in the table of this generation: the errno of the write, or -1."""
        cdef iovec pieces[MOST_PIECES]
        cdef uint64_t done = 0, position, start, length
        cdef int count = 1
        cdef Slot *slot
        while done < size:
            position = (offset + done) // node.block_size
            start = offset + done - position * node.block_size
            slot = &view.slots[view.tables.refs[node.first + position]]
            if zerofs_load(&slot.generation) != view.generation or count == MOST_PIECES:
                return -1
            if slot.length != min(<uint64_t>node.block_size, node.size - position * node.block_size):
                return -1
            length = min(slot.length - start, size - done)
            pieces[count].iov_base = <void *>(slot.data + start)
            pieces[count].iov_len = length
            count += 1
            done += length
        return self._send(unique, 0, pieces, count)

    cdef int _fill(self, View *view, const NodeRow *node, uint64_t first, uint64_t last) noexcept nogil:
        """Put the chunks at these positions of a file into the table: FOUND where all of them are, else as `look_up`."""
        cdef uint64_t position, expected
        cdef uint32_t number
        cdef const char *data
        cdef Slot *slot
        cdef int found
        if not zerofs_load(&view.is_pinned):
            return UNSURE
        for position in range(first, last + 1):
            number = view.tables.refs[node.first + position]
            expected = min(<uint64_t>node.block_size, node.size - position * node.block_size)
            slot = &view.slots[number]
            if zerofs_load(&slot.generation) == view.generation and slot.length == expected:
                continue
            found = self.chunks.look_up(&view.tree, self.index, number, expected, &data)
            if found != FOUND:
                return found
            _put(slot, data, <uint32_t>expected, view.generation)
        return FOUND

    cdef void _forget_chunks(self, View *view, const NodeRow *node, uint64_t offset, uint64_t size) noexcept with gil:
        """Have the chunks of a read looked up and checked once more: the kernel asks twice before it gives up."""
        cdef uint64_t position
        cdef uint32_t number
        for position in range(offset // node.block_size, (offset + size - 1) // node.block_size + 1):
            number = view.tables.refs[node.first + position]
            self.chunks.checked[number] = 0
            zerofs_store(&view.slots[number].generation, 0)

    cdef int _prepare(self, View *view, uint64_t row, uint64_t unique, uint32_t pid, uint64_t offset,
                      uint64_t size) noexcept with gil:
        """Find the chunks of a read in the cache: 1 all are there, 0 the read is parked, -1 it failed."""
        cdef _Parked parked
        cdef uint64_t block
        try:
            if not self.index.is_whole():
                self.failed += 1
                self._error(unique, EIO)
                return -1
            missing = self._find(view, row, offset, size)
            if missing is None:
                return 1  # the generation ended: try again in the next
            block = view.tables.nodes[row].block_size
            if block:
                self.touches.tell(self.take_touches(), &view.tables, row, offset // block,
                                  (offset + size - 1) // block, tuple(missing))
            if not missing:
                return 1
            parked = _Parked.__new__(_Parked)
            parked.unique, parked.pid, parked.row, parked.offset, parked.size = unique, pid, row, offset, size
            parked.plain = {}
            if not self._send_parked(parked):  # what was prefetched since the generation began is in the cache
                self.failed += 1
                self._error(unique, EIO)
            return 0
        except BaseException:
            self.failed += 1
            log.exception("preparing a read")
            self.parked.pop(unique, None)
            self._error(unique, EIO)
            return -1

    cdef object _find(self, View *view, uint64_t row, uint64_t offset, uint64_t size):
        """Put the chunks of a read into the table; those that are not in the cache, or None: the generation ended."""
        cdef NodeRow node = view.tables.nodes[row]
        cdef uint64_t position
        cdef uint64_t expected
        cdef uint32_t number
        cdef const char *data
        cdef Slot *slot
        cdef int answer
        missing = []
        if node.block_size == 0:
            return None  # it was there a moment ago: its page cannot be had
        for position in range(offset // node.block_size, (offset + size - 1) // node.block_size + 1):
            number = view.tables.refs[node.first + position]
            expected = min(<uint64_t>node.block_size, node.size - position * node.block_size)
            slot = &view.slots[number]
            if zerofs_load(&slot.generation) == view.generation and slot.length == expected:
                continue
            if self.chunks.cache is None:
                missing.append(number)
                continue
            if self.snapshot is None:
                snapshot = self.chunks.cache.snapshot()
                if self.snapshot is not None or <void *>view != self.current:
                    snapshot.release()  # another thread was faster, or the generation ended
                else:
                    self.snapshot = snapshot
            self._pin(view)
            data = NULL
            answer = UNSURE
            if view.is_pinned:
                with nogil:
                    answer = self.chunks.look_up(&view.tree, self.index, number, expected, &data)
            if answer == UNSURE:
                with self.finding:  # LMDB wants one thread at a time in a transaction
                    snapshot = self.snapshot
                    if snapshot is None or <void *>view != self.current:
                        return None  # while this thread waited for the lock
                    answer = FOUND if self.chunks.ask(snapshot, self.index, number, expected, &data) is not None else ABSENT
            if answer == FOUND:
                _put(slot, data, <uint32_t>expected, view.generation)
            else:
                missing.append(number)
        return missing

    cdef int _pin(self, View *view) except -1:
        """Let the tree of the snapshot be walked by all who have the view, if it can be."""
        cdef PinnedTree pinned = None if self.snapshot is None or view.is_pinned else self.snapshot.tree()
        if pinned is not None and not view.is_pinned:
            view.tree = pinned.tree
            zerofs_store(&view.is_pinned, 1)
        return 0

    def take_touches(self) -> list:
        """What was wanted and not told to the observer yet, as it is told."""
        cdef Notes *notes[MOST_WORKERS]
        cdef int i
        for i in range(self.worker_count):
            notes[i] = self.workers[i].notes
        return self.touches.take(notes, self.worker_count)

    cdef int _request(self, _Parked parked, missing) except -1:
        parked.missing = <int>len(missing)
        parked.rounds += 1
        done = partial(self._arrived, parked)
        for number in missing:
            self.request_chunk(self.index, number, done)
        return 0

    def _arrived(self, _Parked parked not None, uint32_t number, plain):
        """A chunk that a parked read waits for is there (its bytes), or cannot be had (None)."""
        if plain is None:
            parked.failed = True
        else:
            parked.plain[number] = plain
        parked.missing -= 1
        if parked.missing:
            return
        if self.parked.pop(parked.unique, None) is None:
            return  # answered meanwhile: its reader is being killed
        try:
            if not parked.failed and self._send_parked(parked):
                return
        except BaseException:
            log.exception("answering a read")
            self.parked.pop(parked.unique, None)
        self.failed += 1
        self._error(parked.unique, EIO)

    cdef bint _send_parked(self, _Parked parked) except -1:
        """Answer a read from the chunks that came for it, and from the cache; False: it cannot be had."""
        cdef IndexMap index = self.index
        cdef NodeRow node = index.tables.nodes[parked.row]
        cdef uint32_t faults = index.faults()
        cdef iovec pieces[MOST_PIECES]
        cdef Py_buffer view
        cdef uint64_t done = 0, position, start, length, expected
        cdef int count = 1, error
        cdef uint32_t number
        cdef const char *data
        snapshot = None if self.chunks.cache is None else self.chunks.cache.snapshot()
        held = []
        missing = []
        numbers = []
        try:
            if node.block_size == 0 or not index.is_whole():
                return False
            while done < parked.size:
                position = (parked.offset + done) // node.block_size
                start = parked.offset + done - position * node.block_size
                expected = min(<uint64_t>node.block_size, node.size - position * node.block_size)
                length = min(expected - start, parked.size - done)
                number = index.tables.refs[node.first + position]
                plain = parked.plain.get(number)
                data = NULL
                if plain is not None:
                    if <uint64_t>len(plain) != expected:
                        self.report(_wrong_size(number, len(plain), expected))
                        return False
                    PyObject_GetBuffer(plain, &view, PyBUF_SIMPLE)
                    data = <const char *>view.buf  # `plain` is immutable and held: so is its memory
                    PyBuffer_Release(&view)
                elif snapshot is not None:
                    plain = self.chunks.find(snapshot, index, number, expected, &data)
                if plain is None:
                    missing.append(number)
                else:
                    held.append(plain)
                    numbers.append(number)
                    pieces[count].iov_base = <void *>(data + start)
                    pieces[count].iov_len = length
                    count += 1
                done += length
            if missing:  # or dropped from the cache since this was parked
                if parked.rounds >= 3:
                    return False
                self.waited += parked.rounds == 0
                self.parked[parked.unique] = parked
                if self.early and parked.unique in self.early:
                    del self.early[parked.unique]
                    parked.interrupted = True
                self._request(parked, missing)
                if parked.interrupted:
                    self._give_up(parked)
                return True
            if index.faults() != faults:
                return False  # counted, since `mend` may have come between
            with nogil:
                error = self._send(parked.unique, 0, pieces, count)
            if error == 0:
                self.late_reads += 1
                self.late_bytes += parked.size
            if error == EFAULT:  # the kernel has made EIO of it, and asks once more
                self.failed += 1
                for number in numbers:
                    self.chunks.checked[number] = 0
            return True
        finally:
            if snapshot is not None:
                snapshot.release()

    # -- interrupted reads -----------------------------------------------------------------

    cdef void _interrupt(self, uint64_t unique) noexcept with gil:
        """A signal came for the reader of a parked request; only one that kills it ends its wait."""
        cdef _Parked parked
        try:
            parked = self.parked.get(unique)
            if parked is None:
                self.early[unique] = None
                if len(self.early) > MOST_EARLY:
                    del self.early[next(iter(self.early))]
                return
            parked.interrupted = True
            self._give_up(parked)
        except BaseException:
            log.exception("interrupting a read")

    cdef int _give_up(self, _Parked parked) except -1:
        """Answer with EINTR where the reader is being killed: it could not end otherwise."""
        if self.kill_pending(parked.pid) and self.parked.pop(parked.unique, None) is not None:
            self._error(parked.unique, EINTR)
        return 0

    def give_up_killed(self):
        """Look again at readers that got a signal: the kernel tells of the first one only."""
        cdef _Parked parked
        for parked in [parked for parked in self.parked.values() if (<_Parked>parked).interrupted]:
            self._give_up(parked)

    def fail_parked(self):
        """Answer all parked reads with EIO: nothing will come for them any more."""
        cdef _Parked parked
        while self.parked:
            _, parked = self.parked.popitem()
            self.failed += 1
            self._error(parked.unique, EIO)

    def reads(self) -> tuple:
        """(answered, their bytes, that had to wait, that wait now, that failed), of all reads so far."""
        cdef uint64_t answered = self.late_reads, size = self.late_bytes, failed = self.failed
        cdef int i
        for i in range(self.worker_count):
            answered += zerofs_tallied(&self.workers[i].reads)
            size += zerofs_tallied(&self.workers[i].bytes)
            failed += zerofs_tallied(&self.workers[i].failed)
        return answered, size, self.waited, len(self.parked), failed


cdef void _free_view(View *view) noexcept:
    free(view.slots)
    free(view.former)
    free(view)


cdef inline void _put(Slot *slot, const char *data, uint32_t length, uint32_t generation) noexcept nogil:
    slot.data = data
    slot.length = length
    zerofs_store(&slot.generation, generation)


cdef void _fill_attributes(const Tables *tables, uint64_t row, fuse_attr *attributes) noexcept nogil:
    cdef const NodeRow *node = &tables.nodes[row]
    attributes.ino = row + 1
    attributes.size = node.size
    attributes.blocks = (node.size + 511) // 512
    attributes.atime = attributes.mtime = <uint64_t>node.mtime
    attributes.ctime = <uint64_t>node.ctime
    attributes.mode = node.mode
    attributes.nlink = node.nlink
    attributes.uid = node.uid
    attributes.gid = node.gid
    attributes.rdev = node.rdev
    attributes.blksize = 4096


cdef void _fill_entry(const Tables *tables, uint64_t row, fuse_entry_out *entry) noexcept nogil:
    entry.nodeid = row + 1
    entry.attr_valid = FOREVER_SECONDS
    _fill_attributes(tables, row, &entry.attr)
