# -- the fast engine: the kernel's protocol without the interpreter ------------------------
#
# Role: takes requests from /dev/fuse, finds out what each wants and has it answered: from the tables (answers.pxi),
# from the chunk table (table.pxi), or later (parked.pxi).  wire.pxi says what requests look like, channel.pxi how
# answers go out.
#
# Threads: those that call `Engine.serve` answer from the mapped tables and the chunk table without the GIL.  A chunk
# that is not in the table is looked up in the cache without it, too.  The GIL is taken once in a generation to begin
# it, to ask py-lmdb where that look-up is unsure, to park a read whose chunk is not there, and for what only happens
# after a live swap.  No lock protects what they read: views.pxi says how it stays valid.

cdef extern from "<unistd.h>" nogil:
    ssize_t posix_read "read" (int fd, void *buf, size_t count)


@cython.final
cdef class Engine:
    """Serves an `IndexMap` on a FUSE channel, a descriptor on which nothing has been answered yet.

    `request(index, number, done)` asks for a chunk; `done(number, plain bytes or None)` is called once, from any
    thread.  `report(error)` is told why reads fail that no `request` failed for.  `cache` is that of `CachedChunks`,
    `observer` is that of `Touches`.  `swap` and `renew` belong to one thread at a time.

    A successor takes a channel over on which another engine has answered: it is told what that one had `negotiated`,
    goes on with what it had `replaced`, and shares a file in memory (`released`, a descriptor), in which it noted what
    of that leads to new nodes by now.  Requests that the kernel
    sends again carry another number than at first (its highest bit is set), and are answered under that one.
    """

    cdef Channel channel
    cdef Views views
    cdef CachedChunks chunks
    cdef ChunkTable table
    cdef ParkedReads parked
    cdef Touches touches
    cdef readonly Lingering lingering
    cdef object report
    cdef uint32_t halted  # threads take no further request

    def __cinit__(self, int channel, IndexMap index not None, *, cache, request, report, kill_pending,
                  uint64_t total_size=0, observer=None, uint64_t negotiated=0, released=None, replaced=()):
        self.channel = Channel(channel, negotiated)
        self.views = Views()
        self.chunks = CachedChunks(cache)
        self.table = ChunkTable(self.views, self.chunks)
        self.parked = ParkedReads(self.channel, self.views, self.chunks, request, report, kill_pending)
        self.touches = Touches(observer)
        self.lingering = Lingering(released)
        self.report = report
        self.halted = 0
        self.swap(index, total_size, replaced)

    @property
    def negotiated(self) -> int:
        """What was agreed on at INIT, 0 before that: a successor is told it."""
        return self.channel.negotiated

    @property
    def resends(self) -> bool:
        """Whether the kernel can be asked to send requests again."""
        return self.channel.resends

    # -- what is served --------------------------------------------------------------------

    def swap(self, IndexMap index not None, uint64_t total_size=0, replaced=()):
        """Serve `index`, which knows all rows and chunks of the one before, from now on; see `Operations.swap`."""
        cdef View *view = self.views.next_of(index, total_size)
        try:
            self.chunks.grow(index.tables.chunk_count)
            self.touches.grow(index.tables.chunk_count)
            self.lingering.reserve(index.tables.node_count)
        except BaseException:
            free_view(view)
            raise
        self.views.close()  # threads look names up only while they have a view
        self.lingering.swap(index.tables.node_count, replaced)
        self.views.index = index
        self.channel.trust(index)
        self.views.make_current(view)

    def mend(self):
        """Try pages of the index again that the disk could not give: until then every request is answered with EIO."""
        cdef IndexMap index = self.views.index
        cdef View *view = <View *>self.views.current
        if index.is_whole():
            return False
        self.report(_unreadable())
        self.views.make_current(NULL)  # no thread has read a page of zeros, and not looked yet, when this returns
        try:
            index.guard.restore()
            self.channel.trust(index)
        finally:
            self.views.make_current(view)
        return True

    def renew(self):
        """End the generation, if anything was found in the cache in it; True where that was so."""
        return self.views.renew()

    def take_touches(self) -> list:
        """What was wanted and not told to the observer yet, as it is told."""
        cdef Notes *notes[MOST_WORKERS]
        cdef int i
        for i in range(self.views.worker_count):
            notes[i] = self.views.workers[i].notes
        return self.touches.take(notes, self.views.worker_count)

    def give_up_killed(self):
        """Look again at readers that got a signal: the kernel tells of the first one only."""
        self.parked.give_up_killed()

    def fail_parked(self):
        """Answer all parked reads with EIO: nothing will come for them any more."""
        self.parked.fail_all()

    def reads(self) -> tuple:
        """(answered, their bytes, that had to wait, that wait now, that failed), of all reads so far."""
        cdef ParkedReads late = self.parked
        cdef uint64_t answered = late.answered, size = late.bytes, failed = late.failed
        cdef const Worker *worker
        cdef int i
        for i in range(self.views.worker_count):
            worker = &self.views.workers[i]
            answered += zerofs_tallied(&worker.reads)
            size += zerofs_tallied(&worker.bytes)
            failed += zerofs_tallied(&worker.failed)
        return answered, size, late.waited, len(late.parked), failed

    # -- the loop --------------------------------------------------------------------------

    def add_worker(self) -> int:
        """The number of a new worker, for `serve`.  Call it before any thread serves."""
        return self.views.add_worker()

    def serve(self, int number):
        """Answer requests until the file system is unmounted (returns 0), the channel fails (its errno), or
        `halt` was called (-1)."""
        cdef int result
        if not 0 <= number < self.views.worker_count:
            raise ValueError("no such worker")
        with nogil:
            result = self._serve(&self.views.workers[number])
        return result

    def halt(self):
        """Have every thread return from `serve` once it has answered, or parked, the request that it took.

        One that waits for a request must be interrupted, by a signal.  Reads that are parked are answered as ever.
        """
        zerofs_store(&self.halted, 1)

    def go_on(self):
        """Undo `halt`, when no thread serves."""
        zerofs_store(&self.halted, 0)

    cdef int _serve(self, Worker *worker) noexcept nogil:
        cdef ssize_t size
        cdef Request request
        cdef int fault
        while not zerofs_load(&self.halted):
            size = posix_read(self.channel.descriptor, worker.request, REQUEST_SIZE)
            if size < 0:
                if errno == EINTR or errno == EAGAIN or errno == ENOENT:
                    continue  # ENOENT: the request was interrupted before it was read
                return 0 if errno == ENODEV or errno == ECONNABORTED else errno  # unmounted, aborted
            if size == 0:
                return 0
            fault = shape(worker.request, size, &request)
            if fault == 0:
                self._answer(worker, &request)
            elif fault != NOT_ANSWERED:
                self.channel.error(request.header.unique, fault)
        return -1

    cdef void _answer(self, Worker *worker, Request *request) noexcept nogil:
        """Answer a request, where it takes no view here, else as `_answer_about`."""
        cdef uint32_t opcode = request.header.opcode
        if opcode == FUSE_INIT:
            self.channel.negotiate(request)
        elif opcode == FUSE_FORGET or opcode == FUSE_BATCH_FORGET:
            pass  # nothing is kept about what the kernel knows, and nobody waits for an answer
        elif opcode == FUSE_INTERRUPT:
            self.parked.interrupt((<fuse_interrupt_in *>request.body).unique)
        elif opcode == FUSE_DESTROY or opcode == FUSE_RELEASE or opcode == FUSE_RELEASEDIR:
            self.channel.error(request.header.unique, 0)
        else:
            self._answer_about(worker, request)

    cdef void _answer_about(self, Worker *worker, Request *request) noexcept nogil:
        """Answer a request about a node."""
        cdef uint32_t opcode = request.header.opcode
        cdef uint64_t unique = request.header.unique
        cdef View *view = self.views.enter(worker)
        cdef const Tables *tables = &view.tables
        cdef uint64_t row = request.header.nodeid - 1
        if request.header.nodeid == 0 or row >= tables.node_count:
            self.channel.error(unique, ENOENT)
        elif opcode == FUSE_LOOKUP:
            answer_lookup(self.channel, self.lingering, tables, row, unique, request.body)
        elif opcode == FUSE_GETATTR:
            answer_getattr(self.channel, tables, row, unique)
        elif opcode == FUSE_READ:
            self._read(worker, view, row, request)
            return  # it has left the view
        elif opcode == FUSE_READDIR or opcode == FUSE_READDIRPLUS:
            answer_readdir(self.channel, self.lingering, tables, row, request, worker.listing)
        elif opcode == FUSE_READLINK:
            answer_readlink(self.channel, tables, row, unique)
        elif opcode == FUSE_OPEN or opcode == FUSE_OPENDIR:
            answer_open(self.channel, unique, opcode == FUSE_OPENDIR)
        elif opcode == FUSE_GETXATTR:
            self.channel.error(unique, ENODATA)
        elif opcode == FUSE_LISTXATTR:
            answer_listxattr(self.channel, unique, (<fuse_getxattr_in *>request.body).size)
        elif opcode == FUSE_STATFS:
            answer_statfs(self.channel, tables, view.total_size, unique)
        elif opcode == FUSE_LSEEK:
            answer_lseek(self.channel, tables, row, unique, <fuse_lseek_in *>request.body)
        elif opcode in (FUSE_SETATTR, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME,
                        FUSE_RENAME2, FUSE_LINK, FUSE_WRITE, FUSE_SETXATTR, FUSE_REMOVEXATTR, FUSE_CREATE,
                        FUSE_FALLOCATE, FUSE_TMPFILE):
            self.channel.error(unique, EROFS)
        else:
            self.channel.error(unique, ENOSYS)
        self.views.leave(worker)

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
            self.channel.error(unique, EISDIR if node.mode & TYPE_MASK == TYPE_DIR else EINVAL)
            self.views.leave(worker)
            return
        if offset >= node.size or size == 0:
            self.channel.data(unique, NULL, 0)
            self.views.leave(worker)
            return
        size = min(size, node.size - offset)
        if node.block_size == 0 or (offset + size - 1) // node.block_size >= node.count:
            self.channel.error(unique, EIO)
            self.views.leave(worker)
            self._report_hole(row)
            return
        while True:
            error = self._send_mapped(view, node, unique, offset, size)
            if error >= 0:
                if error == EFAULT:  # the disk cannot give a page of the cache, and the kernel has made EIO of it
                    self.table.forget(view, node, offset, size)
                    zerofs_tally(&worker.failed, 1)
                self.views.leave(worker)
                if error == 0:
                    zerofs_tally(&worker.reads, 1)
                    zerofs_tally(&worker.bytes, size)
                return
            first, last = offset // node.block_size, (offset + size - 1) // node.block_size
            if self.table.fill(view, node, first, last) == FOUND:
                if self.touches.note(worker.notes, &view.tables, node, row, first, last):
                    continue
            ready = self._prepare(view, row, unique, request.header.pid, offset, size)
            self.views.leave(worker)
            if ready <= 0:
                return  # parked, or failed and answered
            view = self.views.enter(worker)  # where the generation ended meanwhile this is the next one
            copy = view.tables.nodes[row]
            if copy.block_size == 0:
                zerofs_tally(&worker.failed, 1)
                self.channel.error(unique, EIO)
                self.views.leave(worker)
                return

    cdef int _send_mapped(self, View *view, const NodeRow *node, uint64_t unique, uint64_t offset,
                          uint64_t size) noexcept nogil:
        """Answer if all chunks are in the table of this generation: the errno of the write, or -1."""
        cdef iovec pieces[MOST_PIECES]
        cdef int count = gather(view, node, offset, size, pieces)
        return -1 if count < 0 else self.channel.send(unique, 0, pieces, count)

    cdef int _prepare(self, View *view, uint64_t row, uint64_t unique, uint32_t pid, uint64_t offset,
                      uint64_t size) noexcept with gil:
        """Find the chunks of a read in the cache: 1 all are there, 0 the read is parked, -1 it failed."""
        cdef uint64_t block
        try:
            if not self.views.index.is_whole():
                self.parked.fail(unique)
                return -1
            missing = self.table.find(view, row, offset, size)
            if missing is None:
                return 1  # the generation ended: try again in the next
            block = view.tables.nodes[row].block_size
            if block:
                self.touches.tell(self.take_touches(), &view.tables, row, offset // block,
                                  (offset + size - 1) // block, tuple(missing))
            if not missing:
                return 1
            self.parked.park(unique, pid, row, offset, size)
            return 0
        except BaseException:
            log.exception("preparing a read")
            self.parked.drop(unique)
            return -1

    cdef void _report_hole(self, uint64_t row) noexcept with gil:
        self.parked.failed += 1
        try:
            self.report(_hole(row))
        except BaseException:
            log.exception("reporting a failed read")
