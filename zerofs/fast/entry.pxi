# -- an entry of the cache -----------------------------------------------------------------
#
# The layout is described in zerofs/cache/entry.py, which reads it as well; what is written is written here.

cdef extern from "checksum.h" nogil:
    uint64_t zerofs_checksum(const void *first, size_t first_size, const void *second, size_t second_size,
                             const void *third, size_t third_size) noexcept

cdef packed struct EntryHeader:
    uint64_t header_check  # over the name and all of the header that follows the checksums
    uint64_t bytes_check  # over the name, the length and the plain bytes
    uint64_t length

cdef enum:
    CHECKS_SIZE = 16  # the two checksums, at the beginning of the header


cdef bint is_entry(const char *name, size_t name_size, const char *value, uint64_t size) noexcept nogil:
    """Whether `value` was stored under `name`, as far as its header says."""
    cdef EntryHeader header
    if size < sizeof(EntryHeader):
        return False
    memcpy(&header, value, sizeof(EntryHeader))
    return header.length == size - sizeof(EntryHeader) and header.header_check == zerofs_checksum(
        name, name_size, <char *>&header + CHECKS_SIZE, sizeof(EntryHeader) - CHECKS_SIZE, NULL, 0)


cdef bint is_sound(const char *name, size_t name_size, const char *value, uint64_t size) noexcept nogil:
    """Whether the bytes of an entry are those that were stored; reads them all.  For what `is_entry`."""
    cdef EntryHeader header
    memcpy(&header, value, sizeof(EntryHeader))
    return header.bytes_check == zerofs_checksum(
        name, name_size, &header.length, 8, value + sizeof(EntryHeader), size - sizeof(EntryHeader))


cdef struct Packing:
    const char *name
    size_t name_size
    Py_buffer plain
    char *value


cdef void pack_entry(const Packing *packing) noexcept nogil:
    cdef EntryHeader header
    cdef char *plain = packing.value + sizeof(EntryHeader)
    header.length = packing.plain.len
    memcpy(plain, packing.plain.buf, header.length)
    header.header_check = zerofs_checksum(
        packing.name, packing.name_size, <char *>&header + CHECKS_SIZE, sizeof(EntryHeader) - CHECKS_SIZE, NULL, 0)
    header.bytes_check = zerofs_checksum(
        packing.name, packing.name_size, &header.length, 8, plain, header.length)
    memcpy(packing.value, &header, sizeof(EntryHeader))


@cython.final
cdef class _Packings:
    """What is packed together; holds the plain bytes as long as it lives."""

    cdef Packing *rows
    cdef Py_ssize_t held

    def __cinit__(self, Py_ssize_t count):
        self.rows = <Packing *>PyMem_Calloc(count + 1, sizeof(Packing))
        if self.rows == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.held):
            PyBuffer_Release(&self.rows[i].plain)
        PyMem_Free(self.rows)


def pack_entries(list entries not None) -> list:
    """(name, value to be stored) for each (name, plain bytes), in order.  The checksums are taken without the GIL."""
    cdef _Packings packings = _Packings(len(entries))
    cdef Packing *packing
    cdef Py_ssize_t i
    cdef bytes name, value
    cdef list packed = []
    for i in range(len(entries)):
        name, plain = entries[i]
        packing = &packings.rows[i]
        PyObject_GetBuffer(plain, &packing.plain, PyBUF_SIMPLE)
        packings.held += 1
        value = PyBytes_FromStringAndSize(NULL, sizeof(EntryHeader) + packing.plain.len)
        packing.name = PyBytes_AS_STRING(name)
        packing.name_size = PyBytes_GET_SIZE(name)
        packing.value = PyBytes_AS_STRING(value)
        packed.append((name, value))
    with nogil:
        for i in range(packings.held):
            pack_entry(&packings.rows[i])
    return packed
