# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ciphers and hashes of several chunks at once, compiled: one chunk per lane of a vector.

Role: owns the memory that the kernels work on, and gives them one call per batch, without the GIL.  What
goes into a batch together is the business of `zerofs.chunk.batch`; what a lone chunk needs is elsewhere.

Every function takes a `path`, one of `PATHS`, and takes the widest by itself.  All give the same bytes.  No
state but the table of paths; any thread may call.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size) noexcept

cdef extern from "lanes.h" nogil:
    enum zerofs_path:
        ZEROFS_PORTABLE
        ZEROFS_AVX2
        ZEROFS_AVX512
        ZEROFS_PATHS
    int zerofs_path_supported(zerofs_path path) noexcept

cdef extern from "xxtea_lanes.h" nogil:
    enum:
        ZEROFS_XXTEA_LANES
    size_t ZEROFS_XXTEA_MOST_WORDS
    struct zerofs_xxtea_lane:
        const uint8_t *data "in"
        uint8_t *out
        size_t size
        uint32_t words
        uint32_t last
        uint32_t key[4]
    size_t zerofs_xxtea_scratch(size_t words) noexcept
    void zerofs_xxtea_encrypt_lanes(
        zerofs_path path, const zerofs_xxtea_lane *lanes, size_t count, uint32_t *scratch) noexcept
    void zerofs_xxtea_decrypt_lanes(
        zerofs_path path, const zerofs_xxtea_lane *lanes, size_t count, uint32_t *scratch) noexcept

cdef extern from "blake2b_lanes.h" nogil:
    struct zerofs_message:
        const uint8_t *data
        size_t size
        uint8_t *digest
    void zerofs_blake2b_lanes(
        zerofs_path path, const zerofs_message *messages, size_t count, size_t digest_size) noexcept


LANES = ZEROFS_XXTEA_LANES

cdef dict _paths = {
    name: path
    for name, path in (("portable", ZEROFS_PORTABLE), ("avx2", ZEROFS_AVX2), ("avx512", ZEROFS_AVX512))
    if zerofs_path_supported(path)
}
PATHS = tuple(_paths)
cdef zerofs_path _widest = _paths[PATHS[len(PATHS) - 1]]


cdef zerofs_path _path(str name) except *:
    if name is None:
        return _widest
    if name not in _paths:
        raise ValueError(f"this processor does not have the path {name!r}")
    return _paths[name]


@cython.final
cdef class _Buffers:
    """The bytes of several objects, held as long as this lives."""

    cdef Py_buffer *views
    cdef Py_ssize_t held

    def __cinit__(self, list objects not None):
        self.views = <Py_buffer *>PyMem_Calloc(len(objects) + 1, sizeof(Py_buffer))
        if self.views == NULL:
            raise MemoryError
        for each in objects:
            PyObject_GetBuffer(each, &self.views[self.held], PyBUF_SIMPLE)
            self.held += 1

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.views)


cdef int _transform(bint encrypting, zerofs_path path, zerofs_xxtea_lane *lanes, Py_ssize_t count) except -1:
    """Run the cipher over `lanes`, whose `in`, `size`, `words`, `last` and `out` are set."""
    cdef void *scratch = NULL
    cdef Py_ssize_t i
    for i in range(1, count):
        if lanes[i].words > lanes[i - 1].words:
            raise ValueError("the longest comes first")
    if posix_memalign(&scratch, 64, zerofs_xxtea_scratch(lanes[0].words)) != 0:
        raise MemoryError
    with nogil:
        if encrypting:
            zerofs_xxtea_encrypt_lanes(path, lanes, count, <uint32_t *>scratch)
        else:
            zerofs_xxtea_decrypt_lanes(path, lanes, count, <uint32_t *>scratch)
    free(scratch)
    return 0


cdef int _check_counts(list blocks, list keys) except -1:
    if not 1 <= len(blocks) <= ZEROFS_XXTEA_LANES:
        raise ValueError(f"{len(blocks)} chunks do not fit into {ZEROFS_XXTEA_LANES} lanes")
    if len(keys) != len(blocks):
        raise ValueError(f"{len(keys)} keys for {len(blocks)} chunks")
    return 0


cdef bytes _start(zerofs_xxtea_lane *lane, Py_buffer *view, bytes key, size_t words):
    """Fill in a lane but for its last word; returns the memory of its result."""
    if len(key) != 16:
        raise ValueError(f"an XXTEA key has 16 bytes, not {len(key)}")
    if words > ZEROFS_XXTEA_MOST_WORDS:
        raise ValueError("too long for a lane")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, words * 4)
    lane.data = <const uint8_t *>view.buf
    lane.size = view.len
    lane.words = <uint32_t>words
    lane.out = <uint8_t *>PyBytes_AS_STRING(out)
    memcpy(lane.key, PyBytes_AS_STRING(key), 16)
    return out


def xxtea_encrypt_lanes(list plains not None, list keys not None, *, str path=None) -> list:
    """Encrypt 1 to `LANES` `plains`, the longest first, each as `zerofs._fast.xxtea_encrypt` does."""
    cdef zerofs_xxtea_lane lanes[ZEROFS_XXTEA_LANES]
    cdef Py_ssize_t i
    cdef zerofs_path chosen = _path(path)
    _check_counts(plains, keys)
    buffers = _Buffers(plains)
    results = []
    for i in range(buffers.held):
        if buffers.views[i].len == 0:
            raise ValueError("nothing to encrypt")
        results.append(_start(&lanes[i], &buffers.views[i], keys[i], (buffers.views[i].len + 3) // 4 + 1))
        lanes[i].last = <uint32_t>buffers.views[i].len
    _transform(True, chosen, lanes, buffers.held)
    return results


def xxtea_decrypt_lanes(list blocks not None, list keys not None, *, str path=None) -> list:
    """Decrypt 1 to `LANES` `blocks`, the longest first.  Each is 8 bytes or more, and a multiple of 4.

    None stands in the place of one whose length word does not fit: wrong key or damaged bytes.
    """
    cdef zerofs_xxtea_lane lanes[ZEROFS_XXTEA_LANES]
    cdef Py_ssize_t i
    cdef size_t most
    cdef uint32_t length
    cdef zerofs_path chosen = _path(path)
    _check_counts(blocks, keys)
    buffers = _Buffers(blocks)
    results = []
    for i in range(buffers.held):
        if buffers.views[i].len % 4 or buffers.views[i].len < 8:
            raise ValueError(f"{buffers.views[i].len} bytes are no XXTEA block")
        results.append(_start(&lanes[i], &buffers.views[i], keys[i], buffers.views[i].len // 4))
    _transform(False, chosen, lanes, buffers.held)
    for i in range(buffers.held):
        most = (<size_t>lanes[i].words - 1) * 4
        memcpy(&length, lanes[i].out + most, 4)
        results[i] = memoryview(results[i])[:length] if length <= most < <size_t>length + 4 else None
    return results


def blake2b_lanes(list messages not None, size_t digest_size, *, str path=None) -> list:
    """The BLAKE2b digests, of `digest_size` bytes (1 to 64), of any number of `messages` of any lengths."""
    cdef Py_ssize_t i
    cdef zerofs_path chosen = _path(path)
    if not 1 <= digest_size <= 64:
        raise ValueError(f"a BLAKE2b digest has 1 to 64 bytes, not {digest_size}")
    buffers = _Buffers(messages)
    cdef zerofs_message *rows = <zerofs_message *>PyMem_Calloc(buffers.held + 1, sizeof(zerofs_message))
    if rows == NULL:
        raise MemoryError
    try:
        digests = []
        for i in range(buffers.held):
            digest = PyBytes_FromStringAndSize(NULL, digest_size)
            digests.append(digest)
            rows[i].data = <const uint8_t *>buffers.views[i].buf
            rows[i].size = buffers.views[i].len
            rows[i].digest = <uint8_t *>PyBytes_AS_STRING(digest)
        with nogil:
            zerofs_blake2b_lanes(chosen, rows, buffers.held, digest_size)
    finally:
        PyMem_Free(rows)
    return digests
