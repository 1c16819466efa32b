# -- an entry of the cache -----------------------------------------------------------------
#
# The layout is described in zerofs/cache/entry.py, which writes it; this is its twin.

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
