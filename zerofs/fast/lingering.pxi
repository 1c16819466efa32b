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
    (a descriptor).  Everything needs the GIL; `find_for_worker` takes it.
    """

    cdef object shared  # the descriptor, or None
    cdef object released  # its map, a byte a row: 1 once the old node's name leads elsewhere; or None
    cdef dict names  # (row of the directory, name) → (the old row that it still leads to, lookups)
    cdef readonly bint any  # whether there are such names

    def __cinit__(self, shared=None):
        self.shared = shared
        self.released = None
        self.names = {}

    cdef int swap(self, uint64_t rows, replaced) except -1:
        """Take up an index of `rows` rows, in which `replaced` ((row, name), old row) lead elsewhere.

        No thread may look up names meanwhile.
        """
        cdef uint64_t old
        if self.shared is not None:
            if <uint64_t>os.fstat(self.shared).st_size < rows:
                os.ftruncate(self.shared, rows)
            self.released = shared_map(self.shared, rows)
        for place, old in replaced:
            if self.released is not None and self.released[old]:
                continue
            if place not in self.names:
                self.names[place] = (old, 0)
            else:
                self._note(old)  # replaced twice while it lingers: nobody was ever led to the one in between
        self.any = bool(self.names)
        return 0

    cdef int _note(self, uint64_t old) except -1:
        if self.released is not None:
            self.released[old] = 1
        return 0

    cdef int64_t find(self, uint64_t row, bytes name) except -2:
        """The old row that `name` is about to lead somebody to, or -1."""
        found = self.names.get((row, name))
        if found is None:
            return -1
        old, lookups = found
        self.names[row, name] = (old, lookups + 1)
        return old

    cdef int64_t find_for_worker(self, uint64_t row, const char *name) noexcept with gil:
        """What `find` finds."""
        try:
            return self.find(row, <bytes>name)
        except BaseException:
            log.exception("looking up a name that a swap replaced")
            return -1

    def nodes(self) -> list:
        """((row of the directory, name), old row) of each, as `Engine.swap` takes them."""
        return [(place, old) for place, (old, _) in self.names.items()]

    def lookups(self, place not None) -> int:
        """How often this name, which lingers, has led somebody to its old node."""
        return self.names[place][1]

    def release(self, place not None, lookups not None):
        """Let this name, which lingers, lead to its new node, unless it has led anybody to the old one since `lookups`."""
        old, counted = self.names[place]
        if counted == lookups:
            self._note(old)  # first: who is killed in between has led nobody to the new one
            del self.names[place]
            self.any = bool(self.names)
