# -- who is told what readers want ---------------------------------------------------------

@cython.final
cdef class Touches:
    """Tells `observer` of each chunk that a reader wants for the first time in this mount; None: nobody.

    `observer.touched(row, first, last, missing)`: the chunks at the positions `first` to `last` of the file `row` were
    wanted, and those numbered `missing` were not in the cache.  Call everything with the GIL.
    """

    cdef object observer
    cdef uint8_t *seen  # chunk number → whether it was told
    cdef uint64_t count

    def __cinit__(self, observer):
        self.observer = observer
        self.seen = NULL
        self.count = 0

    def __dealloc__(self):
        PyMem_Free(self.seen)

    cdef int grow(self, uint64_t count) except -1:
        """Make room for the chunks of an index that knows all the old ones, and more."""
        cdef uint8_t *seen
        if self.observer is None:
            return 0
        seen = <uint8_t *>PyMem_Calloc(count + 1, 1)
        if seen == NULL:
            raise MemoryError
        if self.count:
            memcpy(seen, self.seen, min(self.count, count))
        PyMem_Free(self.seen)
        self.seen = seen
        self.count = count
        return 0

    cdef int tell(self, const Tables *tables, uint64_t row, uint64_t first, uint64_t last, missing) except -1:
        """The chunks at these positions are wanted.  The observer's errors end its being told, and nothing else."""
        cdef NodeRow node
        cdef uint64_t position
        cdef uint32_t number
        cdef bint is_new = False
        if self.observer is None:
            return 0
        node = tables.nodes[row]
        if last >= node.count:
            return 0  # its page cannot be had any more
        for position in range(first, last + 1):
            number = tables.refs[node.first + position]
            if not self.seen[number]:
                self.seen[number] = 1
                is_new = True
        if is_new:
            try:
                self.observer.touched(row, first, last, missing)
            except Exception:
                self.observer = None
                log.exception("nothing is prefetched any more")
        return 0
