# -- chunks that are in the cache ----------------------------------------------------------

cdef enum:
    CODEC_UNKNOWN = 0  # those of zerofs/chunk/codec.py
    CODEC_SHA256_XXTEA = 1
    CODEC_BLAKE2B128_XXTEA = 2
    CODEC_BLAKE2B256_AESGCM = 3
    LONGEST_NAME = 511  # that LMDB takes


cdef inline bint _is_hex(const char *text, size_t size) noexcept nogil:
    cdef size_t i
    for i in range(size):
        if not (c'0' <= text[i] <= c'9' or c'a' <= text[i] <= c'f' or c'A' <= text[i] <= c'F'):
            return False
    return True


cdef size_t cached_name(const Tables *tables, uint32_t number, char *name) noexcept nogil:
    """Write what zerofs/chunk/codec.py calls the `cache_name` of a chunk into `name`; its size, at most LONGEST_NAME.

    0: it is longer, and in no cache.
    """
    cdef const ChunkRow *chunk = &tables.chunks[number]
    cdef const char *digits = b"0123456789abcdef"
    cdef uint64_t offset
    cdef uint32_t size, i
    if chunk.key_form <= 32:
        size = chunk.key_form
        memcpy(name + 1, chunk.key, size)
    elif chunk.key_form == FORM_HEX:
        size = FORM_HEX
        for i in range(32):
            name[1 + 2 * i] = digits[chunk.key[i] >> 4]
            name[2 + 2 * i] = digits[chunk.key[i] & 15]
    else:
        memcpy(&offset, chunk.key, 8)
        memcpy(&size, chunk.key + 8, 4)
        if size >= LONGEST_NAME or not _fits(offset, size, tables.names_size):  # or its page cannot be had any more
            return 0
        memcpy(name + 1, tables.names + offset, size)
    if size == 64 and _is_hex(name + 1, 64):
        name[0] = CODEC_SHA256_XXTEA
    elif size == 16:
        name[0] = CODEC_BLAKE2B128_XXTEA
    elif size == 32:
        name[0] = CODEC_BLAKE2B256_AESGCM
    else:
        name[0] = CODEC_UNKNOWN
    return size + 1


@cython.final
cdef class Zeros:
    """Memory that begins as zeros, and takes room where it is touched."""

    cdef void *start

    def __cinit__(self, size_t count, size_t size):
        self.start = calloc(count, size)
        if self.start == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.start)


@cython.final
cdef class CachedChunks:
    """Finds the plain bytes of chunks, by number, in the cache.

    `cache` may be None: nothing is found.  Bytes are checked against their checksum the first time that they are
    found at an address, and again at another.

    There are two ways.  `look_up` walks LMDB's tree itself, without the GIL.  Where it is UNSURE, or there is no tree to walk,
    a snapshot of the cache is asked by way of py-lmdb, which decides what becomes of a damaged entry or file.
    """

    cdef object cache
    cdef WorkingSet working  # None where there is no cache
    cdef uintptr_t *checked  # chunk number → address at which its bytes were last found sound
    cdef list arrays  # `checked` and those before it: somebody may be looking there yet
    cdef uint64_t count

    def __cinit__(self, cache):
        self.cache = cache
        self.working = None if cache is None else cache.working_set()
        self.arrays = []
        self.grow(0)

    cdef int grow(self, uint64_t count) except -1:
        """Make room for the chunks of an index that knows all the old ones, and more.  Needs the GIL."""
        cdef Zeros array
        if self.working is not None:
            self.working.grow(count)
        if count < self.count:
            raise ValueError("the new index knows fewer chunks than the old one")
        array = Zeros(count + 1, sizeof(uintptr_t))
        if self.count:
            memcpy(array.start, self.checked, self.count * sizeof(uintptr_t))
        self.arrays.append(array)
        self.checked = <uintptr_t *>array.start
        self.count = count
        return 0

    cdef int look_up(self, const Tree *tree, IndexMap index, uint32_t number, uint64_t expected,
                     const char **data) noexcept nogil:
        """The address of a chunk's `expected` bytes: FOUND, ABSENT or UNSURE.  Needs no GIL.

        It is valid, and for the kernel to read, as long as the tree is pinned.
        """
        cdef char name[LONGEST_NAME + 1]
        cdef Lookup lookup
        cdef int found
        lookup.name, lookup.name_size = name, cached_name(&index.tables, number, name)
        lookup.sound = <const char *>self.checked[number]
        if lookup.name_size == 0 or not index.is_whole():
            return UNSURE
        found = look_up(tree, &lookup)
        if found != FOUND:
            return found
        self.checked[number] = <uintptr_t>lookup.data
        data[0] = lookup.data
        if lookup.size != expected:
            return ABSENT
        self.working.mark(number, name, lookup.name_size, expected)
        return FOUND

    cdef bytes name_of(self, IndexMap index, uint32_t number):
        """The name of a chunk in the cache; None where it has none, or a page of the index cannot be had."""
        cdef char name[LONGEST_NAME + 1]
        cdef size_t size = cached_name(&index.tables, number, name)
        return name[:size] if size and index.is_whole() else None

    cdef bytes copy(self, snapshot, IndexMap index, uint32_t number, uint64_t expected):
        """The chunk's `expected` bytes, or None where they are not there."""
        cdef bytes name = self.name_of(index, number)
        cdef bytes plain = None if name is None else snapshot.read(name)
        if plain is None or <uint64_t>PyBytes_GET_SIZE(plain) != expected:
            return None
        self.working.found(number, name, expected)
        return plain

    cdef object find(self, snapshot, IndexMap index, uint32_t number, uint64_t expected, const char **data):
        """A view of the chunk's `expected` bytes, their address in `data`; None where they are not there.

        The view, and the address, are valid as long as `snapshot` is not released, and for the kernel to read: touched
        here, a page that the disk cannot give would end the process.
        """
        cdef PinnedTree pinned = snapshot.tree()
        cdef int found
        if pinned is not None:
            with nogil:  # it may have to wait for the disk
                found = self.look_up(&pinned.tree, index, number, expected, data)
            if found == ABSENT:
                return None
            if found == FOUND:
                return PyMemoryView_FromMemory(<char *>data[0], expected, PyBUF_READ)
        return self.ask(snapshot, index, number, expected, data)

    cdef object ask(self, snapshot, IndexMap index, uint32_t number, uint64_t expected, const char **data):
        """What `find` finds, by way of py-lmdb."""
        cdef Py_buffer view
        cdef uintptr_t address = 0
        cdef uint64_t size = 0
        cdef uintptr_t sound = self.checked[number]
        cdef bytes name = self.name_of(index, number)
        if name is None:
            return None
        found = snapshot.find(name, verify=sound == 0)
        if found is None:
            return None
        PyObject_GetBuffer(found, &view, PyBUF_SIMPLE)
        address = <uintptr_t>view.buf
        size = <uint64_t>view.len
        PyBuffer_Release(&view)
        if sound != 0 and sound != address:  # it moved since its checksum was looked at
            found = snapshot.find(name)
            if found is None:
                return None
        if size != expected:
            return None
        self.checked[number] = address
        self.working.found(number, name, expected)
        data[0] = <const char *>address
        return found
