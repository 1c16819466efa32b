# -- the chunk table: where the chunks of a read lie -------------------------------------------
#
# Role: chunk number → the address of its bytes in LMDB's map, for the generation of a view; what is not in the
# table is looked up in the cache.
#
# Threads: any.  `gather` and `fill` need no GIL, and no lock: a slot is made valid by its generation, last.  `find` holds
# the GIL, and the lock `finding` while py-lmdb is asked, which wants one thread at a time in a transaction.
# All of them are called with the view entered (see views.pxi).


cdef inline uint64_t chunk_length(const NodeRow *node, uint64_t position) noexcept nogil:
    """The plain bytes of the chunk at a position of a file: the last one is shorter."""
    return min(<uint64_t>node.block_size, node.size - position * node.block_size)


cdef inline bint _is_put(const View *view, const Slot *slot, uint64_t expected) noexcept nogil:
    return zerofs_load(&slot.generation) == view.generation and slot.length == expected


cdef inline void _put(Slot *slot, const char *data, uint64_t length, uint32_t generation) noexcept nogil:
    slot.data = data
    slot.length = <uint32_t>length
    zerofs_store(&slot.generation, generation)


cdef int gather(const View *view, const NodeRow *node, uint64_t offset, uint64_t size, iovec *pieces) noexcept nogil:
    """Set the pieces of a read, from the second on; their number, or -1 where a chunk is not in the table."""
    cdef uint64_t done = 0, position, start, length
    cdef int count = 1
    cdef const Slot *slot
    while done < size:
        position = (offset + done) // node.block_size
        start = offset + done - position * node.block_size
        slot = &view.slots[view.tables.refs[node.first + position]]
        if count == MOST_PIECES or not _is_put(view, slot, chunk_length(node, position)):
            return -1
        length = min(slot.length - start, size - done)
        pieces[count].iov_base = <void *>(slot.data + start)
        pieces[count].iov_len = length
        count += 1
        done += length
    return count


@cython.final
cdef class ChunkTable:
    """Puts chunks that are in the cache into the table of a view."""

    cdef Views views
    cdef CachedChunks chunks
    cdef object finding  # a lock around the use of the snapshot by way of py-lmdb

    def __cinit__(self, Views views, CachedChunks chunks):
        self.views = views
        self.chunks = chunks
        self.finding = Lock()

    cdef int fill(self, View *view, const NodeRow *node, uint64_t first, uint64_t last) noexcept nogil:
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
            expected = chunk_length(node, position)
            slot = &view.slots[number]
            if _is_put(view, slot, expected):
                continue
            found = self.chunks.look_up(&view.tree, self.views.index, number, expected, &data)
            if found != FOUND:
                return found
            _put(slot, data, expected, view.generation)
        return FOUND

    cdef object find(self, View *view, uint64_t row, uint64_t offset, uint64_t size):
        """Put the chunks of a read into the table; those that are not in the cache, or None: the generation ended."""
        cdef NodeRow node = view.tables.nodes[row]
        cdef uint64_t position, expected
        cdef uint32_t number
        cdef const char *data
        cdef Slot *slot
        cdef int answer
        missing = []
        if node.block_size == 0:
            return None  # it was there a moment ago: its page cannot be had
        for position in range(offset // node.block_size, (offset + size - 1) // node.block_size + 1):
            number = view.tables.refs[node.first + position]
            expected = chunk_length(&node, position)
            slot = &view.slots[number]
            if _is_put(view, slot, expected):
                continue
            if self.chunks.cache is None:
                missing.append(number)
                continue
            self.views.begin(view, self.chunks.cache)
            data = NULL
            answer = UNSURE
            if view.is_pinned:
                with nogil:
                    answer = self.chunks.look_up(&view.tree, self.views.index, number, expected, &data)
            if answer == UNSURE:
                with self.finding:  # LMDB wants one thread at a time in a transaction
                    snapshot = self.views.snapshot
                    if snapshot is None or <void *>view != self.views.current:
                        return None  # while this thread waited for the lock
                    found = self.chunks.ask(snapshot, self.views.index, number, expected, &data)
                    answer = ABSENT if found is None else FOUND
            if answer == FOUND:
                _put(slot, data, expected, view.generation)
            else:
                missing.append(number)
        return missing

    cdef void forget(self, View *view, const NodeRow *node, uint64_t offset, uint64_t size) noexcept with gil:
        """Have the chunks of a read looked up and checked once more: the kernel asks twice before it gives up."""
        cdef uint64_t position
        cdef uint32_t number
        for position in range(offset // node.block_size, (offset + size - 1) // node.block_size + 1):
            number = view.tables.refs[node.first + position]
            self.chunks.checked[number] = 0
            zerofs_store(&view.slots[number].generation, 0)
