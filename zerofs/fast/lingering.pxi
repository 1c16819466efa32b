# -- names that a live swap replaced -------------------------------------------------------

@cython.final
cdef class Lingering:
    """Which nodes the kernel may know, and names that still lead to a node of before a swap.

    An overlay above cannot bear a name to lead to another node while somebody holds the old one: it would answer
    ESTALE until the holder is gone.  So replaced names whose old node the kernel knows **linger**: they
    lead to the old node until the kernel forgets it.

    The kernel counts what it was told of a node, and says how many it forgets: so do we, since a FORGET may overtake
    a LOOKUP that another thread answers.  `mark` and `unmark` need no GIL; everything else does, and
    `find_for_worker` and `release_if_any` take it.

    The counts of a mount that is to outlive this process lie in a file in memory, `shared` (a descriptor).
    """

    cdef object shared  # the descriptor, or None
    cdef object counted  # a 32-bit number a row: a bytearray, or the file's map
    cdef uint32_t *counts  # its bytes: row → references that the kernel holds
    cdef dict names  # (row of the directory, name) → the old row that it still leads to
    cdef bint any  # whether there are such names

    def __cinit__(self, shared=None):
        self.shared = shared
        self.counted = bytearray()
        self.counts = NULL
        self.names = {}

    cdef int swap(self, uint64_t rows, replaced) except -1:
        """Take up an index of `rows` rows, in which `replaced` ((row, name), old row) lead elsewhere.

        No thread may `mark` or `unmark` meanwhile.
        """
        cdef uint64_t old
        if self.shared is None:
            self.counted.extend(bytes(4 * rows - <uint64_t>len(self.counted)))
            self.counts = <uint32_t *>PyByteArray_AS_STRING(<bytearray>self.counted)
        else:
            self._map(rows)
        for place, old in replaced:
            # replaced twice while it is held: it goes on leading to what the kernel knows
            if place not in self.names and self.counts[old]:
                self.names[place] = old
        self.any = bool(self.names)
        return 0

    cdef int _map(self, uint64_t rows) except -1:
        cdef Py_buffer view
        if <uint64_t>os.fstat(self.shared).st_size < 4 * rows:
            os.ftruncate(self.shared, 4 * rows)
        self.counted = shared_map(self.shared, 4 * rows)
        PyObject_GetBuffer(self.counted, &view, PyBUF_WRITABLE)
        self.counts = <uint32_t *>view.buf  # nobody closes the map: it is there as long as it is referred to
        PyBuffer_Release(&view)
        return 0

    cdef int forget(self, uint64_t row) except -1:
        self.counts[row] = 0
        return self.release()

    cdef inline void mark(self, uint64_t row) noexcept nogil:
        zerofs_count(&self.counts[row], 1)

    cdef inline void unmark(self, uint64_t row, uint64_t lookups) noexcept nogil:
        zerofs_count(&self.counts[row], -<int32_t>min(lookups, <uint64_t>0x7FFFFFFF))

    cdef int64_t find(self, uint64_t row, bytes name) except -2:
        """The old row that `name` still leads to, or -1."""
        old = self.names.get((row, name))
        return -1 if old is None else old

    cdef int64_t find_for_worker(self, uint64_t row, const char *name) noexcept with gil:
        """What `find` finds."""
        try:
            return self.find(row, <bytes>name)
        except BaseException:
            log.exception("looking up a name that a swap replaced")
            return -1

    cdef int release(self) except -1:
        """Let go of the names whose old node the kernel has forgotten."""
        cdef uint64_t old
        kept = {}
        for place, old in self.names.items():
            if self.counts[old]:
                kept[place] = old
        self.names = kept
        self.any = bool(kept)
        return 0

    cdef inline void release_if_any(self) noexcept nogil:
        """What `release` does, after a worker forgot something."""
        if self.any:
            self._release_for_worker()

    cdef void _release_for_worker(self) noexcept with gil:
        try:
            self.release()
        except BaseException:
            log.exception("forgetting names that a swap replaced")
