# -- views: what keeps memory valid under threads that hold no lock ---------------------------
#
# Role: says which tables and chunk table a request reads, ends generations, and frees what nobody reads any more.
#
# All that a request reads hangs on one `View`: the tables of an index, and the chunk table with the number of
# its generation.  A thread publishes the view that it works with (`Worker.view`) and looks again whether it still is
# the current one; whoever replaces the current view first makes the new one current and then waits until no thread
# has the old one published.  Either the thread sees the new view, or the replacer sees the thread's: nothing is freed
# under a reader.
#
# A slot of the chunk table counts only when it carries the generation of the view; its address lies in LMDB's map and
# holds its bytes as long as the generation's snapshot, which is released after the last reader of the generation has
# left.  So does the tree that is walked for a chunk (`View.tree`, see lmdbtree.pxi): who walks has the view published.
# There are two tables of slots, taken in turns: threads of a generation and of the next may be at work at once, never
# of one and the one after next, so no thread writes into a slot that another generation reads.  Threads of one
# generation may fill a slot at once: they found the same.
# Generations end within a second or two (`renew`), so no snapshot pins old pages for long; an idle mount has none.
#
# Threads: workers `enter` and `leave` without the GIL, each with a `Worker` of its own.  `renew`, `close` and
# `make_current` belong to one thread at a time; `index` and `snapshot` change under the GIL.

cdef extern from "fuse_wire.h" nogil:
    void *zerofs_load_pointer(void *const *place) noexcept
    void zerofs_store_pointer(void **place, void *value) noexcept

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)

cdef enum:
    MOST_WORKERS = 16

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


cdef void free_view(View *view) noexcept:
    if view != NULL:
        free(view.slots)
        free(view.former)
        free(view)


@cython.final
cdef class Views:
    """The current view of an index, the workers that may read it, and the snapshot of its generation."""

    cdef IndexMap index  # whose tables the current view has
    cdef void *current  # the View, or NULL while it is replaced
    cdef object snapshot  # of the current generation; None until a chunk is wanted
    cdef Worker workers[MOST_WORKERS]
    cdef int worker_count

    def __dealloc__(self):
        cdef int i
        free_view(<View *>self.current)
        for i in range(self.worker_count):
            free(self.workers[i].request)
            free(self.workers[i].listing)
            free(self.workers[i].notes)

    cdef int add_worker(self) except -1:
        """The number of a new worker.  Call it before any thread serves."""
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

    cdef View *next_of(self, IndexMap index, uint64_t total_size) except NULL:
        """A view of `index`, to be made current once the one before it is closed."""
        cdef View *old = <View *>self.current
        cdef View *view = <View *>calloc(1, sizeof(View))
        if view == NULL:
            raise MemoryError
        view.slots = <Slot *>calloc(index.tables.chunk_count + 1, sizeof(Slot))
        view.former = <Slot *>calloc(index.tables.chunk_count + 1, sizeof(Slot))
        if view.slots == NULL or view.former == NULL:
            free_view(view)
            raise MemoryError
        view.tables = index.tables
        view.generation = 1 if old == NULL else old.generation + 1
        view.total_size = total_size
        return view

    cdef int close(self) except -1:
        """End the current view and its generation: no thread works with any from now on, until one is made current."""
        cdef View *old = <View *>self.current
        self.make_current(NULL)
        snapshot, self.snapshot = self.snapshot, None
        if snapshot is not None:
            snapshot.release()
        free_view(old)
        return 0

    cdef bint renew(self) except -1:
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
        self.make_current(view)
        free(old)
        snapshot.release()
        return True

    cdef int begin(self, View *view, cache) except -1:
        """Have a snapshot of the cache for the generation of `view`, if that still is the current one.

        Its tree may be walked by all who have the view, if it can be walked.
        """
        cdef PinnedTree pinned
        if self.snapshot is None:
            snapshot = cache.snapshot()
            if self.snapshot is not None or <void *>view != self.current:
                snapshot.release()  # another thread was faster, or the generation ended
            else:
                self.snapshot = snapshot
        pinned = None if self.snapshot is None or view.is_pinned else self.snapshot.tree()
        if pinned is not None and not view.is_pinned:
            view.tree = pinned.tree
            zerofs_store(&view.is_pinned, 1)
        return 0

    cdef int make_current(self, View *view) except -1:
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

    cdef View *enter(self, Worker *worker) noexcept nogil:
        """The current view, which stays until `leave`."""
        cdef void *view
        while True:
            view = zerofs_load_pointer(&self.current)
            zerofs_store_pointer(&worker.view, view)
            if view != NULL and zerofs_load_pointer(&self.current) == view:
                return <View *>view
            zerofs_store_pointer(&worker.view, NULL)
            usleep(20)  # a swap is under way

    cdef void leave(self, Worker *worker) noexcept nogil:
        zerofs_store_pointer(&worker.view, NULL)
