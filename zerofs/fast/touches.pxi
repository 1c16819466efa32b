# -- who is told what readers want ---------------------------------------------------------

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now)

cdef enum:
    MOST_NOTED = 512

cdef struct Note:
    double at  # time.monotonic()
    uint32_t row
    uint32_t first
    uint32_t last

cdef struct Notes:
    uint32_t written  # how many ever were; the worker that they belong to counts
    uint32_t told  # of those; under the GIL
    Note notes[MOST_NOTED]  # the newest, in turns


cdef double _now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


@cython.final
cdef class Touches:
    """Tells `observer` of each chunk that a reader wants for the first time in this mount; None: nobody.

    `observer.touched(touches)`: a list of (when, row, first, last, missing), in the order of the moments: the chunks at the positions
    `first` to `last` of the file `row` were wanted, and those numbered `missing` were not in the cache.  It returns whether to be
    told at once of what comes next.  Else what was missing nothing is written down in the `Notes` of the thread that found it, which
    takes no GIL, and told with what comes after it, or when somebody asks (`take`).
    """

    cdef object observer
    cdef uint8_t *seen  # chunk number → whether it was told, or noted
    cdef list arrays  # `seen` and those before it: somebody may be looking there yet
    cdef uint64_t count
    cdef bint urgent  # nothing is noted, all is told

    def __cinit__(self, observer):
        self.observer = observer
        self.arrays = []
        self.grow(0)

    cdef int grow(self, uint64_t count) except -1:
        """Make room for the chunks of an index that knows all the old ones, and more."""
        cdef Zeros array
        if self.observer is None:
            return 0
        array = Zeros(count + 1, 1)
        if self.count:
            memcpy(array.start, self.seen, min(self.count, count))
        self.arrays.append(array)
        self.seen = <uint8_t *>array.start
        self.count = count
        return 0

    cdef bint note(self, Notes *notes, const Tables *tables, const NodeRow *node, uint64_t row, uint64_t first,
                   uint64_t last) noexcept nogil:
        """Whether the observer need not be told now that the chunks at these positions, all cached, are wanted."""
        cdef uint8_t *seen = self.seen
        cdef const uint32_t *refs = tables.refs + node.first
        cdef uint64_t position
        cdef Note *place
        cdef bint is_new = False
        if seen == NULL:
            return True
        if self.urgent or notes.written - zerofs_load(&notes.told) == MOST_NOTED:
            for position in range(first, last + 1):
                is_new |= not seen[refs[position]]
            return not is_new
        for position in range(first, last + 1):
            is_new |= zerofs_set_first(&seen[refs[position]])
        if is_new:
            place = &notes.notes[notes.written % MOST_NOTED]
            place.at, place.row, place.first, place.last = _now(), <uint32_t>row, <uint32_t>first, <uint32_t>last
            zerofs_store(&notes.written, notes.written + 1)
        return True

    cdef list take(self, Notes **all_notes, int count):
        """What `count` threads have noted, as the observer is told of it."""
        cdef list touches = []
        cdef Notes *notes
        cdef Note note
        cdef int i
        for i in range(count):
            notes = all_notes[i]
            while zerofs_load(&notes.written) != notes.told:
                note = notes.notes[notes.told % MOST_NOTED]
                zerofs_store(&notes.told, notes.told + 1)
                touches.append((note.at, note.row, note.first, note.last, ()))
        touches.sort()
        return touches

    cdef int tell(self, list before, const Tables *tables, uint64_t row, uint64_t first, uint64_t last,
                  tuple missing) except -1:
        """The chunks at these positions are wanted, and so were those of `before`, which were noted.

        The observer's errors end its being told, and nothing else.
        """
        cdef NodeRow node = tables.nodes[row]
        cdef uint64_t position
        cdef bint is_new = False
        if self.observer is None:
            return 0
        if last < node.count:  # else its page cannot be had any more
            for position in range(first, last + 1):
                is_new |= zerofs_set_first(&self.seen[tables.refs[node.first + position]])
        if is_new:
            before.append((_now(), row, first, last, missing))
        if before:
            try:
                self.urgent = self.observer.touched(before)
            except Exception:
                self.observer, self.seen = None, NULL
                log.exception("nothing is prefetched any more")
        return 0
