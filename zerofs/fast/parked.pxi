# -- parked reads: those that wait for chunks -------------------------------------------------
#
# Role: a read whose chunks are not in the cache is put aside, its chunks are asked for, and it is answered when the
# last of them is there, or cannot be had.  So no worker waits for a store.  The wait of a reader that is being killed
# ends early.
#
# Threads: workers park and tell of interrupts, the fetcher's threads bring chunks, a ticking thread looks after readers
# that are being killed.  All of it happens under the GIL, and there are no other locks: who takes a read out
# of `parked` is the one to answer it.  Only the write of an answer lets the GIL go.

cdef enum:
    MOST_EARLY = 1024  # interrupts of reads that are not parked: nearly all of them have been answered


@cython.final
cdef class _Parked:
    """A READ that waits for chunks."""

    cdef uint64_t unique
    cdef uint32_t pid
    cdef uint64_t row
    cdef uint64_t offset
    cdef uint64_t size
    cdef dict plain  # chunk number → its bytes; for those that came while this waits
    cdef int missing
    cdef int rounds
    cdef bint failed
    cdef bint interrupted


@cython.final
cdef class ParkedReads:
    """The reads of an engine that wait, and counts of those that are over.

    `request`, `report` and `kill_pending` are those of `Engine`.
    """

    cdef Channel channel
    cdef Views views
    cdef CachedChunks chunks
    cdef object request_chunk
    cdef object report
    cdef object kill_pending
    cdef dict parked  # unique → _Parked
    cdef dict early  # uniques of interrupts that met no parked read, the oldest first: it may be about to be parked
    cdef uint64_t answered  # all of these are counted under the GIL
    cdef uint64_t bytes
    cdef uint64_t waited
    cdef uint64_t failed

    def __cinit__(self, Channel channel, Views views, CachedChunks chunks, request, report, kill_pending):
        self.channel = channel
        self.views = views
        self.chunks = chunks
        self.request_chunk = request
        self.report = report
        self.kill_pending = kill_pending
        self.parked = {}
        self.early = {}

    cdef int park(self, uint64_t unique, uint32_t pid, uint64_t row, uint64_t offset, uint64_t size) except -1:
        """Have a read answered once its chunks are there."""
        cdef _Parked parked = _Parked.__new__(_Parked)
        parked.unique, parked.pid, parked.row, parked.offset, parked.size = unique, pid, row, offset, size
        parked.plain = {}
        if not self._send(parked):  # what was prefetched since the generation began is in the cache
            self.fail(unique)
        return 0

    cdef void fail(self, uint64_t unique) noexcept:
        """Answer a read that is not parked, or not any more, with EIO."""
        self.failed += 1
        self.channel.error(unique, EIO)

    cdef int drop(self, uint64_t unique) except -1:
        """Answer a read with EIO, parked or not."""
        self.parked.pop(unique, None)
        self.fail(unique)
        return 0

    cdef int fail_all(self) except -1:
        """Answer all of them with EIO: nothing will come for them any more."""
        while self.parked:
            unique, _ = self.parked.popitem()
            self.fail(unique)
        return 0

    # -- chunks that come ------------------------------------------------------------------

    cdef int _request(self, _Parked parked, missing) except -1:
        parked.missing = <int>len(missing)
        parked.rounds += 1
        done = partial(self._arrived, parked)
        for number in missing:
            self.request_chunk(self.views.index, number, done)
        return 0

    def _arrived(self, _Parked parked not None, uint32_t number, plain):
        """A chunk that a parked read waits for is there (its bytes), or cannot be had (None)."""
        if plain is None:
            parked.failed = True
        else:
            parked.plain[number] = plain
        parked.missing -= 1
        if parked.missing:
            return
        if self.parked.pop(parked.unique, None) is None:
            return  # answered meanwhile: its reader is being killed
        try:
            if not parked.failed and self._send(parked):
                return
        except BaseException:
            log.exception("answering a read")
            self.parked.pop(parked.unique, None)
        self.fail(parked.unique)

    cdef bint _send(self, _Parked parked) except -1:
        """Answer a read from the chunks that came for it, and from the cache; False: it cannot be had.

        Where some are not there it is parked, and they are asked for.
        """
        cdef IndexMap index = self.views.index
        cdef NodeRow node = index.tables.nodes[parked.row]
        cdef uint32_t faults = index.faults()
        cdef iovec pieces[MOST_PIECES]
        cdef uint64_t done = 0, position, start, length, expected
        cdef int count = 1
        cdef uint32_t number
        cdef const char *data
        snapshot = None if self.chunks.cache is None else self.chunks.cache.snapshot()
        held = []
        missing = []
        numbers = []
        try:
            if node.block_size == 0 or not index.is_whole():
                return False
            while done < parked.size:
                position = (parked.offset + done) // node.block_size
                start = parked.offset + done - position * node.block_size
                expected = chunk_length(&node, position)
                length = min(expected - start, parked.size - done)
                number = index.tables.refs[node.first + position]
                plain = parked.plain.get(number)
                data = NULL
                if plain is not None:
                    if <uint64_t>len(plain) != expected:
                        self.report(_wrong_size(number, len(plain), expected))
                        return False
                    data = _address(plain)
                elif snapshot is not None:
                    plain = self.chunks.find(snapshot, index, number, expected, &data)
                if plain is None:
                    missing.append(number)
                else:
                    held.append(plain)
                    numbers.append(number)
                    pieces[count].iov_base = <void *>(data + start)
                    pieces[count].iov_len = length
                    count += 1
                done += length
            if missing:  # or dropped from the cache since this was parked
                return self._wait(parked, missing)
            if index.faults() != faults:
                return False  # counted, since `mend` may have come between
            self._write(parked, pieces, count, numbers)
            return True
        finally:
            if snapshot is not None:
                snapshot.release()

    cdef bint _wait(self, _Parked parked, missing) except -1:
        """Park a read and ask for what it lacks; False: it was asked for often enough."""
        if parked.rounds >= 3:
            return False
        self.waited += parked.rounds == 0
        self.parked[parked.unique] = parked
        if self.early and parked.unique in self.early:
            del self.early[parked.unique]
            parked.interrupted = True
        self._request(parked, missing)
        if parked.interrupted:
            self._give_up(parked)
        return True

    cdef int _write(self, _Parked parked, iovec *pieces, int count, numbers) except -1:
        cdef int error
        cdef uint32_t number
        with nogil:
            error = self.channel.send(parked.unique, 0, pieces, count)
        if error == 0:
            self.answered += 1
            self.bytes += parked.size
        if error == EFAULT:  # the kernel has made EIO of it, and asks once more
            self.failed += 1
            for number in numbers:
                self.chunks.checked[number] = 0
        return 0

    # -- readers that are being killed -----------------------------------------------------

    cdef void interrupt(self, uint64_t unique) noexcept with gil:
        """A signal came for the reader of a parked request; only one that kills it ends its wait."""
        cdef _Parked parked
        try:
            parked = self.parked.get(unique)
            if parked is None:
                self.early[unique] = None
                if len(self.early) > MOST_EARLY:
                    del self.early[next(iter(self.early))]
                return
            parked.interrupted = True
            self._give_up(parked)
        except BaseException:
            log.exception("interrupting a read")

    cdef int _give_up(self, _Parked parked) except -1:
        """Answer with EINTR where the reader is being killed: it could not end otherwise."""
        if self.kill_pending(parked.pid) and self.parked.pop(parked.unique, None) is not None:
            self.channel.error(parked.unique, EINTR)
        return 0

    cdef int give_up_killed(self) except -1:
        """Look again at readers that got a signal: the kernel tells of the first one only."""
        cdef _Parked parked
        for parked in [parked for parked in self.parked.values() if (<_Parked>parked).interrupted]:
            self._give_up(parked)
        return 0


cdef const char *_address(plain) except NULL:
    """Where immutable bytes lie, as long as they are held."""
    cdef Py_buffer view
    PyObject_GetBuffer(plain, &view, PyBUF_SIMPLE)
    PyBuffer_Release(&view)
    return <const char *>view.buf
