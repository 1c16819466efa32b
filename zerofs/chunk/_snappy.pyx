# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Snappy's raw block format, compiled: decompression of one block, without the GIL.

Several at a time are the business of `_batch`.  No state; any thread may call.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

cdef extern from "snappy.h" nogil:
    int64_t zerofs_snappy_length(const uint8_t *block, size_t size, size_t *used) noexcept
    int zerofs_snappy_decompress(const uint8_t *data, size_t size, uint8_t *out, size_t length) noexcept


def declared_length(block) -> int:
    """The plain length that stands at the start of `block`, -1 where there is none that fits into 32 bits."""
    cdef Py_buffer view
    cdef size_t used = 0
    PyObject_GetBuffer(block, &view, PyBUF_SIMPLE)
    try:
        return zerofs_snappy_length(<const uint8_t *>view.buf, view.len, &used)
    finally:
        PyBuffer_Release(&view)


def decompress(block):
    """The plain bytes of `block`, as many as it declares; None where it is damaged."""
    cdef Py_buffer view
    cdef size_t used = 0
    cdef int64_t length
    cdef bytes plain
    cdef uint8_t *out
    cdef bint sound
    PyObject_GetBuffer(block, &view, PyBUF_SIMPLE)
    try:
        length = zerofs_snappy_length(<const uint8_t *>view.buf, view.len, &used)
        if length < 0:
            return None
        plain = PyBytes_FromStringAndSize(NULL, length)
        out = <uint8_t *>PyBytes_AS_STRING(plain)
        with nogil:
            sound = zerofs_snappy_decompress(<const uint8_t *>view.buf + used, view.len - used, out, length)
        return plain if sound else None
    finally:
        PyBuffer_Release(&view)
