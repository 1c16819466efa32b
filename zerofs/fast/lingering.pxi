# -- names that a live swap replaced -------------------------------------------------------

@cython.final
cdef class Lingering:
    """Names that still lead to a node of before a swap.

    An overlay above cannot bear a name to lead to another node while somebody holds the old one: it would answer
    ESTALE until the holder is gone.  So replaced names **linger**: they lead to the old node until the kernel is found
    not to know it.  It is asked, and what it was told is not counted: a server that is killed takes FORGETs with it, and
    lookups that it had counted and not answered come again.

    The kernel does not know a node yet whose answer is under way, either.  So lookups of each name are counted: whoever
    has waited for all answers that were given before, then heard that the node is not known, and finds that
    none was given since, may `release` the name.  `zerofs.mount.flistmount.FlistMount.settle` does.

    What was released is noted for other processes, which may serve the same mount next, in a file in memory, `shared`
    (a descriptor).  `are_in` needs no GIL; everything else does, and `find_for_worker` takes it.
    """

    cdef object shared  # the descriptor, or None
    cdef object released  # its map, a byte a row: 1 once the old node's name leads elsewhere; or None
    cdef dict names  # row of a directory → name → [the old row that it still leads to, lookups]
    cdef readonly bint any  # whether there are such names
    cdef bytearray marked  # a byte a row: 1 where `names` has the directory; empty as long as nothing ever lingered
    cdef const uint8_t *marks  # its bytes

    def __cinit__(self, shared=None):
        self.shared = shared
        self.released = None
        self.names = {}
        self.marked = bytearray()
        self.marks = NULL

    cdef int reserve(self, uint64_t rows) except -1:
        """Make ready for an index of `rows` rows: what may fail, while names may still be looked up."""
        if self.shared is not None:
            if <uint64_t>os.fstat(self.shared).st_size < rows:
                os.ftruncate(self.shared, rows)
            self.released = shared_map(self.shared, rows)
        return 0

    cdef int swap(self, uint64_t rows, replaced) except -1:
        """Take up an index of `rows` rows, in which `replaced` ((row, name), old row) lead elsewhere.

        `reserve` was called.  No thread may look up names meanwhile.
        """
        cdef uint64_t old
        for (row, name), old in replaced:
            if self.released is not None and self.released[old]:
                continue
            names = self.names.setdefault(row, {})
            if name not in names:
                names[name] = [old, 0]
            else:
                self._note(old)  # replaced twice while it lingers: nobody was ever led to the one in between
        self.any = bool(self.names)
        if self.any:
            self.marked.extend(bytes(rows - <uint64_t>len(self.marked)))
            self.marks = <const uint8_t *>PyByteArray_AS_STRING(self.marked)
            for row in self.names:
                self.marked[row] = 1
        return 0

    cdef int _note(self, uint64_t old) except -1:
        if self.released is not None:
            self.released[old] = 1
        return 0

    cdef inline bint are_in(self, uint64_t row) noexcept nogil:
        """Whether names in this directory linger."""
        return self.any and self.marks[row]

    cdef int64_t find(self, uint64_t row, bytes name) except -2:
        """The old row that `name` is about to lead somebody to, or -1."""
        names = self.names.get(row)
        found = None if names is None else names.get(name)
        if found is None:
            return -1
        found[1] += 1
        return found[0]

    cdef int64_t find_for_worker(self, uint64_t row, const char *name) noexcept with gil:
        """What `find` finds."""
        try:
            return self.find(row, <bytes>name)
        except BaseException:
            log.exception("looking up a name that a swap replaced")
            return -1

    def nodes(self) -> list:
        """((row of the directory, name), old row) of each, as `Engine.swap` takes them."""
        return [((row, name), old) for row, names in self.names.items() for name, (old, _) in names.items()]

    def lookups(self, place not None) -> int:
        """How often this name, which lingers, has led somebody to its old node."""
        row, name = place
        return self.names[row][name][1]

    def release(self, place not None, lookups not None):
        """Let this name, which lingers, lead to its new node, unless it has led anybody to the old one since `lookups`."""
        row, name = place
        old, counted = self.names[row][name]
        if counted == lookups:
            self._note(old)  # first: who is killed in between has led nobody to the new one
            self._drop(row, name)

    def take_over(self):
        """Let names lead to their new nodes that another process has released, which served until now."""
        cdef uint64_t old
        if self.released is not None:
            for (row, name), old in self.nodes():
                if self.released[old]:
                    self._drop(row, name)

    cdef int _drop(self, row, name) except -1:
        names = self.names[row]
        del names[name]
        if not names:
            del self.names[row]
            self.marked[row] = 0
            self.any = bool(self.names)
        return 0
