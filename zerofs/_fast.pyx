# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The hot paths, compiled.

Role: arithmetic on typed memory, without the GIL where it lasts.  It parses no flist, opens no socket
and decides no policy.  One extension, a file for each idea:

- ``fast/cipher.pxi``: the chunk cipher;
- ``fast/guarded.pxi``: mapped files whose pages the disk may fail to give (`GuardedMap`);
- ``fast/index.pxi``: the mapped index (`IndexMap`);
- ``fast/recency.pxi``: what was used lately (`Recency`, `WorkingSet`);
- ``fast/entry.pxi``: an entry of the cache, packed and checked;
- ``fast/lmdbtree.pxi``: LMDB's trees, walked without LMDB (`PinnedTree`);
- ``fast/lmdbcheck.pxi``: whether their pages fit together;
- ``fast/chunks.pxi``: cached chunks, found by number;
- ``fast/touches.pxi``: what readers want for the first time, told to the prefetcher;
- ``fast/lingering.pxi``: names that a live swap replaced while somebody may hold the old node;
- ``fast/operations.pxi``: the file system operations that llfuse calls (`Operations`);
- ``fast/wire.pxi``: the kernel's own protocol: structs, limits, the shape of requests;
- ``fast/channel.pxi``: what is agreed on with the kernel, and answers to it (`Channel`);
- ``fast/views.pxi``: what keeps memory valid under threads that hold no lock (`Views`);
- ``fast/answers.pxi``: answers about nodes: names, attributes, directories;
- ``fast/table.pxi``: the chunk table (`ChunkTable`);
- ``fast/parked.pxi``: reads that wait for chunks, and interrupts (`ParkedReads`);
- ``fast/engine.pxi``: requests taken and answered without the GIL (`Engine`).
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport (
    EAGAIN, ECONNABORTED, EFAULT, EINTR, EINVAL, EIO, EISDIR, ENAMETOOLONG, ENODATA, ENODEV, ENOENT, ENOSYS, ENOTDIR,
    ENXIO, EROFS,
)
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

import logging
import os
from binascii import hexlify
from functools import partial
from mmap import mmap as shared_map
from threading import Lock

from zerofs.errors import ChunkCorruptError, ChunkError, FlistCorruptError, ZerofsError

cdef extern from "xxtea.h" nogil:
    void zerofs_xxtea_encrypt(uint32_t *words, size_t n, const uint32_t *key) noexcept
    void zerofs_xxtea_decrypt(uint32_t *words, size_t n, const uint32_t *key) noexcept

# atomics; what else is in there is declared in wire.pxi and views.pxi
cdef extern from "fuse_wire.h" nogil:
    uint32_t zerofs_load(const uint32_t *place) noexcept
    void zerofs_store(uint32_t *place, uint32_t value) noexcept
    void zerofs_tally(uint64_t *place, uint64_t more) noexcept
    uint64_t zerofs_tallied(const uint64_t *place) noexcept
    void zerofs_fence() noexcept
    bint zerofs_set_first(uint8_t *place) noexcept

include "fast/cipher.pxi"
include "fast/guarded.pxi"
include "fast/index.pxi"
include "fast/recency.pxi"
include "fast/entry.pxi"
include "fast/lmdbtree.pxi"
include "fast/lmdbcheck.pxi"
include "fast/chunks.pxi"
include "fast/touches.pxi"
include "fast/lingering.pxi"
include "fast/operations.pxi"
include "fast/wire.pxi"
include "fast/channel.pxi"
include "fast/views.pxi"
include "fast/answers.pxi"
include "fast/table.pxi"
include "fast/parked.pxi"
include "fast/engine.pxi"
