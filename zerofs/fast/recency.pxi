# -- what was used lately, told by all who use a cache ---------------------------------------

cdef extern from "recency.h" nogil:
    enum:
        ZEROFS_SLOTS
    uint32_t zerofs_slot(const char *name, size_t size) noexcept
    void zerofs_mark(uint8_t *place, uint8_t value) noexcept
    uint8_t zerofs_marked(const uint8_t *place) noexcept
    uint32_t zerofs_asked(uint32_t *place) noexcept
    void zerofs_ask(uint32_t *place) noexcept
    int zerofs_await_asked(uint32_t *place, uint32_t seen, int64_t nanoseconds) noexcept

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS
    void *mmap(void *address, size_t size, int protection, int flags, int descriptor, int64_t offset)

RECENCY_SIZE = 2 * ZEROFS_SLOTS + 4096  # bytes of the file: see `Recency`


@cython.final
cdef class Recency:
    """Two bytes for every slot, and a slot for every name, by its hash: names that share one keep each other.

    *used* is 1 where a chunk was read since an evicting process last came by, *held* is the epoch in which a live mount last said that
    the chunk belongs to its working set; 0 is none.  The bytes lie in a file that all who use the cache map (`descriptor`, of
    `RECENCY_SIZE` bytes), and are written without locks; without a file (-1) they are this object's own.

    Behind them is a number by which writers ask all who have snapshots to end these soon.

    A file that is cut under the map costs what was said in it: the guard lays a page of zeros there that can be written.
    """

    cdef uint8_t *used
    cdef uint8_t *held
    cdef uint32_t *asked
    cdef int number  # of the guarded range, -1: not guarded

    def __cinit__(self, int descriptor=-1):
        cdef void *place
        self.used = NULL
        self.number = -1
        place = mmap(NULL, RECENCY_SIZE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS if descriptor < 0 else MAP_SHARED, descriptor, 0)
        if place == MAP_FAILED:
            raise OSError(errno, "cannot map what was used lately")
        self.used = <uint8_t *>place
        self.held = self.used + ZEROFS_SLOTS
        self.asked = <uint32_t *>(self.held + ZEROFS_SLOTS)
        if descriptor >= 0:
            self.number = zerofs_register_writable(<uintptr_t>place, RECENCY_SIZE)
            if self.number < 0:
                raise OSError(errno, "cannot guard what was used lately")

    def __dealloc__(self):
        if self.number >= 0:
            zerofs_unregister(self.number)
        if self.used != NULL:
            munmap(self.used, RECENCY_SIZE)

    cdef inline uint32_t mark(self, const char *name, size_t size) noexcept nogil:
        """The chunk `name` is used now; its slot."""
        cdef uint32_t slot = zerofs_slot(name, size)
        zerofs_mark(self.used + slot, 1)
        return slot

    def use(self, bytes name not None):
        """The chunk `name` is used now."""
        self.mark(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))

    def was_used(self, bytes name not None) -> bool:
        """Whether `name` was used since `pass_by`."""
        return zerofs_marked(self.used + zerofs_slot(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))) != 0

    def pass_by(self, bytes name not None):
        """From now on `name` was not used."""
        zerofs_mark(self.used + zerofs_slot(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)), 0)

    def held_in(self, bytes name not None) -> int:
        """The epoch in which a live mount last held `name`; 0: none ever did."""
        return zerofs_marked(self.held + zerofs_slot(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)))

    def ask(self):
        """Wake all, in any process, who `await_asked`."""
        with nogil:
            zerofs_ask(self.asked)

    def await_asked(self, uint32_t seen, double seconds) -> int:
        """Wait for somebody to `ask`, unless that has happened since `seen` was returned; returns what to see the next time.

        It may return early.  Raises OSError where one cannot wait here.
        """
        cdef int result
        with nogil:
            result = zerofs_await_asked(self.asked, seen, <int64_t>(seconds * 1e9))
        if result < 0:
            raise OSError(errno, "cannot wait for what processes share")
        return zerofs_asked(self.asked)


@cython.final
cdef class WorkingSet:
    """What one mount reads: `mark` says so the moment it happens, `hold` says it again for all of it.

    The kernel's page cache answers for what is read often, so a chunk that a mount lives on may not be asked for in days.
    What is held are the chunks that were wanted first, up to `budget` plain bytes: a mount that streams through more than that holds
    what it began with, and not what it happens to have read last.

    `mark` needs no GIL and may run in any thread; `grow` and `hold` need it.
    """

    cdef object __weakref__
    cdef Recency recency
    cdef uint32_t *slots  # chunk number → its slot plus one, 0: not read
    cdef uint32_t *former  # the array before this one, in which a thread may be marking yet
    cdef uint64_t count
    cdef int64_t budget

    def __cinit__(self, Recency recency not None, int64_t budget=0):
        self.recency = recency
        self.slots = self.former = NULL
        self.count = 0
        self.budget = budget

    def __dealloc__(self):
        PyMem_Free(self.slots)
        PyMem_Free(self.former)

    cpdef int grow(self, uint64_t count) except -1:
        """Make room for the chunks of an index that knows all the old ones, and more."""
        cdef uint32_t *slots = <uint32_t *>PyMem_Calloc(count + 1, sizeof(uint32_t))
        if slots == NULL:
            raise MemoryError
        if self.count:
            memcpy(slots, self.slots, min(self.count, count) * sizeof(uint32_t))
        PyMem_Free(self.former)
        self.former, self.slots = self.slots, slots
        self.count = count
        return 0

    cdef inline void mark(self, uint32_t number, const char *name, size_t size, uint64_t length) noexcept nogil:
        """The chunk `number`, `name` in the cache and `length` bytes long, was found there for a reader."""
        cdef uint32_t slot = self.recency.mark(name, size)
        if self.slots[number] == 0 and self.budget > 0:
            self.slots[number] = slot + 1
            self.budget -= <int64_t>length  # of two threads at once one may count for both: nothing depends on it

    cpdef int found(self, uint32_t number, bytes name, uint64_t length) except -1:
        """`mark`, for who has the GIL."""
        if number >= self.count:
            raise IndexError(number)
        self.mark(number, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), length)
        return 0

    def hold(self, uint8_t epoch) -> int:
        """Say in `epoch` (not 0) that all of it belongs to a live mount; how many chunks that are."""
        cdef uint64_t number, held = 0
        cdef uint32_t slot
        for number in range(self.count):
            slot = self.slots[number]
            if slot != 0:
                zerofs_mark(self.recency.held + slot - 1, epoch)
                held += 1
        return held
