# -- names that a live swap replaced -------------------------------------------------------

@cython.final
cdef class Lingering:
    """Which nodes the kernel may know, and names that still lead to a node of before a swap.

    An overlay above cannot bear a name to lead to another node while somebody holds the old one: it would answer
    ESTALE until the holder is gone.  So replaced names whose old node the kernel knows **linger**: they
    lead to the old node until the kernel forgets it.

    `mark` needs no GIL; everything else does.
    """

    cdef bytearray known  # row → 1 while the kernel may hold a reference to the node
    cdef uint8_t *marks  # its bytes
    cdef dict names  # (row of the directory, name) → the old row that it still leads to
    cdef bint any  # whether there are such names

    def __cinit__(self):
        self.known = bytearray()
        self.marks = NULL
        self.names = {}

    cdef int swap(self, uint64_t rows, replaced) except -1:
        """Take up an index of `rows` rows, in which `replaced` ((row, name), old row) lead elsewhere.

        No thread may `mark` meanwhile.
        """
        self.known.extend(bytes(rows - <uint64_t>len(self.known)))
        self.marks = <uint8_t *>PyByteArray_AS_STRING(self.known)
        for place, old in replaced:
            # replaced twice while it is held: it goes on leading to what the kernel knows
            if place not in self.names and self.known[old]:
                self.names[place] = old
        self.any = bool(self.names)
        return 0

    cdef inline void mark(self, uint64_t row) noexcept nogil:
        self.marks[row] = 1

    cdef int64_t find(self, uint64_t row, bytes name) except -2:
        """The old row that `name` still leads to, or -1."""
        old = self.names.get((row, name))
        return -1 if old is None else old

    cdef int forget(self, uint64_t row) except -1:
        """The kernel dropped its last reference to the node."""
        self.marks[row] = 0
        if self.any:
            self.names = {place: old for place, old in self.names.items() if old != row}
            self.any = bool(self.names)
        return 0
