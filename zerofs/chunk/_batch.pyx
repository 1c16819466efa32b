# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ciphers and hashes of several chunks at once, compiled: one chunk per lane of a vector; and all steps of decoding.

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
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

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

cdef extern from "snappy.h" nogil:
    int64_t zerofs_snappy_length(const uint8_t *block, size_t size, size_t *used) noexcept
    int zerofs_snappy_decompress(const uint8_t *data, size_t size, uint8_t *out, size_t length) noexcept


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


cdef int _aim(zerofs_xxtea_lane *lane, Py_buffer *view, bytes key, size_t words) except -1:
    """Fill in a lane but for its last word and its result."""
    if len(key) != 16:
        raise ValueError(f"an XXTEA key has 16 bytes, not {len(key)}")
    if words > ZEROFS_XXTEA_MOST_WORDS:
        raise ValueError("too long for a lane")
    lane.data = <const uint8_t *>view.buf
    lane.size = view.len
    lane.words = <uint32_t>words
    memcpy(lane.key, PyBytes_AS_STRING(key), 16)
    return 0


cdef bytes _start(zerofs_xxtea_lane *lane, Py_buffer *view, bytes key, size_t words):
    """Fill in a lane but for its last word; returns the memory of its result."""
    _aim(lane, view, key, words)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, words * 4)
    lane.out = <uint8_t *>PyBytes_AS_STRING(out)
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
    """The first step of `decode_lanes`: decrypt 1 to `LANES` `blocks`, the longest first.  Each is 8 bytes or more, and a multiple of 4.

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


cdef enum:
    _MOST_DIGEST = 64


cdef struct _Chunk:
    const uint8_t *block  # decrypted, behind the length that it begins with; NULL: the chunk does not come out right
    size_t block_size
    size_t limit
    uint8_t *plain
    size_t plain_size
    const uint8_t *digest  # that the plain bytes should have


@cython.final
cdef class _Decoding:
    """Memory for chunks that are decoded together."""

    cdef Py_ssize_t *counts  # of each group
    cdef zerofs_xxtea_lane *lanes
    cdef _Chunk *chunks
    cdef zerofs_message *messages
    cdef uint8_t *digests
    cdef uint8_t *blocks
    cdef void *scratch

    def __cinit__(self, Py_ssize_t groups, Py_ssize_t count, size_t block_bytes, size_t most_words):
        self.counts = <Py_ssize_t *>PyMem_Calloc(groups, sizeof(Py_ssize_t))
        self.lanes = <zerofs_xxtea_lane *>PyMem_Calloc(count, sizeof(zerofs_xxtea_lane))
        self.chunks = <_Chunk *>PyMem_Calloc(count, sizeof(_Chunk))
        self.messages = <zerofs_message *>PyMem_Calloc(count, sizeof(zerofs_message))
        self.digests = <uint8_t *>PyMem_Calloc(count, _MOST_DIGEST)
        self.blocks = <uint8_t *>malloc(block_bytes)
        if posix_memalign(&self.scratch, 64, zerofs_xxtea_scratch(most_words)) != 0:
            self.scratch = NULL
        if (self.counts == NULL or self.lanes == NULL or self.chunks == NULL or self.messages == NULL or self.digests == NULL
                or self.blocks == NULL or self.scratch == NULL):
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.counts)
        PyMem_Free(self.lanes)
        PyMem_Free(self.chunks)
        PyMem_Free(self.messages)
        PyMem_Free(self.digests)
        free(self.blocks)
        free(self.scratch)

    cdef void decrypt(self, zerofs_path path, Py_ssize_t groups) noexcept nogil:
        """Decrypt group by group, and see how long what they hold gets."""
        cdef Py_ssize_t i = 0, group, end
        for group in range(groups):
            zerofs_xxtea_decrypt_lanes(path, &self.lanes[i], self.counts[group], <uint32_t *>self.scratch)
            end = i + self.counts[group]
            while i < end:
                self.look_at(&self.lanes[i], &self.chunks[i])
                i += 1

    cdef void look_at(self, const zerofs_xxtea_lane *lane, _Chunk *chunk) noexcept nogil:
        cdef size_t most = (<size_t>lane.words - 1) * 4
        cdef size_t used = 0
        cdef uint32_t size
        cdef int64_t length
        memcpy(&size, lane.out + most, 4)
        if not size <= most < <size_t>size + 4:
            return
        length = zerofs_snappy_length(lane.out, size, &used)
        if length < 0 or <size_t>length > chunk.limit:
            return
        chunk.block = lane.out + used
        chunk.block_size = size - used
        chunk.plain_size = <size_t>length

    cdef void decompress(self, zerofs_path path, Py_ssize_t count, size_t digest_size) noexcept nogil:
        """Decompress and, where there is a `digest_size`, verify."""
        cdef Py_ssize_t i
        cdef size_t hashed = 0
        cdef _Chunk *chunk
        for i in range(count):
            chunk = &self.chunks[i]
            if chunk.block == NULL:
                continue
            if not zerofs_snappy_decompress(chunk.block, chunk.block_size, chunk.plain, chunk.plain_size):
                chunk.block = NULL
            elif digest_size:
                self.messages[hashed].data = chunk.plain
                self.messages[hashed].size = chunk.plain_size
                self.messages[hashed].digest = self.digests + i * _MOST_DIGEST
                hashed += 1
        if not hashed:
            return
        zerofs_blake2b_lanes(path, self.messages, hashed, digest_size)
        for i in range(count):
            chunk = &self.chunks[i]
            if chunk.block != NULL and memcmp(self.digests + i * _MOST_DIGEST, chunk.digest, digest_size):
                chunk.block = NULL


def decode_lanes(
    list payloads not None, list keys not None, list limits not None, list counts not None,
    size_t digest_size=0, *, str path=None
) -> list:
    """Decrypt `payloads` (XXTEA), each with its 16-byte key, and decompress them (Snappy) to at most `limits` bytes.

    They come in groups of `counts`, 1 to `LANES` each and the longest of each group first.  Each is 8 bytes or more, and
    a multiple of 4.  With a `digest_size`, at most that of the keys, the BLAKE2b digest of the plain bytes has to be
    what the key begins with.  None stands in the place of one that does not come out right.
    """
    cdef Py_ssize_t i, first, group, size
    cdef Py_ssize_t groups = len(counts)
    cdef Py_ssize_t count = len(payloads)
    cdef size_t total = 0, most = 0
    cdef zerofs_path chosen = _path(path)
    cdef bytes key, plain
    if len(keys) != count or len(limits) != count or sum(counts) != count:
        raise ValueError(f"{len(keys)} keys, {len(limits)} limits and groups of {counts} for {count} chunks")
    if not count:
        return []
    if digest_size > 16:
        raise ValueError("a digest is longer than a key")
    buffers = _Buffers(payloads)
    for i in range(count):
        size = buffers.views[i].len
        if size % 4 or size < 8:
            raise ValueError(f"{size} bytes are no XXTEA block")
        total += size
        most = max(most, <size_t>size)
    cdef _Decoding decoding = _Decoding(groups, count, total, most // 4)
    first = 0
    total = 0
    for group in range(groups):
        decoding.counts[group] = counts[group]
        if not 1 <= decoding.counts[group] <= min(<Py_ssize_t>ZEROFS_XXTEA_LANES, count - first):
            raise ValueError(f"a group of {decoding.counts[group]} chunks does not fit")
        for i in range(first, first + decoding.counts[group]):
            if buffers.views[i].len > buffers.views[first].len:
                raise ValueError("the longest comes first")
            key = keys[i]
            _aim(&decoding.lanes[i], &buffers.views[i], key, buffers.views[i].len // 4)
            decoding.lanes[i].out = decoding.blocks + total
            total += buffers.views[i].len
            decoding.chunks[i].limit = limits[i]
            decoding.chunks[i].digest = <const uint8_t *>PyBytes_AS_STRING(key)
        first += decoding.counts[group]
    with nogil:
        decoding.decrypt(chosen, groups)
    plains = []
    for i in range(count):
        if decoding.chunks[i].block == NULL:
            plains.append(None)
            continue
        plain = PyBytes_FromStringAndSize(NULL, decoding.chunks[i].plain_size)
        decoding.chunks[i].plain = <uint8_t *>PyBytes_AS_STRING(plain)
        plains.append(plain)
    with nogil:
        decoding.decompress(chosen, count, digest_size)
    for i in range(count):
        if decoding.chunks[i].block == NULL:
            plains[i] = None
    return plains
