# -- chunks that are in the cache ----------------------------------------------------------

@cython.final
cdef class CachedChunks:
    """Finds the plain bytes of chunks, by number, in snapshots of the cache.

    `cache` may be None: nothing is found.  Bytes are checked against their checksum the first time that they are
    found at an address, and again at another.  Call everything with the GIL.
    """

    cdef object cache
    cdef object cache_name
    cdef WorkingSet working  # None where there is no cache
    cdef list names  # chunk number → name in the cache, made when first wanted
    cdef uintptr_t *checked  # chunk number → address at which its bytes were last found sound
    cdef uint64_t count

    def __cinit__(self, cache, cache_name):
        self.cache = cache
        self.cache_name = cache_name
        self.working = None if cache is None else cache.working_set()
        self.names = []
        self.checked = NULL
        self.count = 0

    def __dealloc__(self):
        PyMem_Free(self.checked)

    cdef int grow(self, uint64_t count) except -1:
        """Make room for the chunks of an index that knows all the old ones, and more."""
        cdef uintptr_t *checked
        if self.working is not None:
            self.working.grow(count)
        if count < self.count:
            raise ValueError("the new index knows fewer chunks than the old one")
        checked = <uintptr_t *>PyMem_Calloc(count + 1, sizeof(uintptr_t))
        if checked == NULL:
            raise MemoryError
        if self.count:
            memcpy(checked, self.checked, self.count * sizeof(uintptr_t))
        PyMem_Free(self.checked)
        self.checked = checked
        self.names += [None] * <Py_ssize_t>(count - self.count)
        self.count = count
        return 0

    cdef bytes _name(self, IndexMap index, uint32_t number):
        """The name of a chunk in the cache; None where a page of the index cannot be had."""
        cdef bytes name = self.names[number]
        if name is None:
            name = self.cache_name(index.key_of(number))
            if not index.is_whole():
                return None
            self.names[number] = name
        return name

    cdef bytes copy(self, snapshot, IndexMap index, uint32_t number, uint64_t expected):
        """The chunk's `expected` bytes, or None where they are not there."""
        cdef bytes name = self._name(index, number)
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
        cdef Py_buffer view
        cdef uintptr_t address = 0
        cdef uint64_t size = 0
        cdef uintptr_t sound = self.checked[number]
        cdef bytes name = self._name(index, number)
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
