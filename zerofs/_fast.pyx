# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The hot paths, compiled.

Role: arithmetic on typed memory, without the GIL where it lasts: the chunk cipher, the mapped
index (`IndexMap`), and the file system operations that llfuse calls (`Operations`).  It parses no
flist, opens no socket and decides no policy.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.errno cimport EINVAL, EIO, EISDIR, ENAMETOOLONG, ENODATA, ENOENT, ENOSYS, ENOTDIR, EROFS
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy

import logging
from binascii import hexlify

from zerofs.errors import ZerofsError

cdef extern from "xxtea.h" nogil:
    void zerofs_xxtea_encrypt(uint32_t *words, size_t n, const uint32_t *key) noexcept
    void zerofs_xxtea_decrypt(uint32_t *words, size_t n, const uint32_t *key) noexcept


# -- the chunk cipher ----------------------------------------------------------------------

cdef int _cipher_key(const uint8_t[::1] key, uint32_t *out) except -1:
    if key.shape[0] != 16:
        raise ValueError(f"an XXTEA key has 16 bytes, not {key.shape[0]}")
    memcpy(out, &key[0], 16)
    return 0


def xxtea_encrypt(const uint8_t[::1] plain not None, const uint8_t[::1] key not None) -> bytes:
    """Encrypt `plain` (1 byte and up) with a 16-byte `key`.

    The result is `plain` zero-padded to whole 32-bit words, and one more word that holds its length.
    """
    cdef uint32_t k[4]
    cdef size_t size = plain.shape[0]
    cdef size_t words = (size + 3) // 4 + 1
    cdef uint32_t *v
    _cipher_key(key, k)
    if size == 0:
        raise ValueError("nothing to encrypt")
    if size > 0xFFFFFFFF:
        raise ValueError("longer than the length word can hold")
    out = PyBytes_FromStringAndSize(NULL, words * 4)
    v = <uint32_t *>PyBytes_AS_STRING(out)
    with nogil:
        v[words - 2] = 0
        memcpy(v, &plain[0], size)
        v[words - 1] = <uint32_t>size
        zerofs_xxtea_encrypt(v, words, k)
    return out


def xxtea_decrypt(const uint8_t[::1] data not None, const uint8_t[::1] key not None) -> bytes:
    """Decrypt what `xxtea_encrypt` made.  Raises ValueError where the length word does not fit."""
    cdef uint32_t k[4]
    cdef size_t size = data.shape[0]
    cdef size_t words = size // 4
    cdef uint32_t length
    cdef uint32_t *v
    _cipher_key(key, k)
    if size % 4 or words < 2:
        raise ValueError(f"{size} bytes are no XXTEA block")
    buffer = PyBytes_FromStringAndSize(NULL, size)
    v = <uint32_t *>PyBytes_AS_STRING(buffer)
    with nogil:
        memcpy(v, &data[0], size)
        zerofs_xxtea_decrypt(v, words, k)
        length = v[words - 1]
    if length > size - 4 or length + 4 <= size - 4:
        raise ValueError("the length word does not fit: wrong key or damaged bytes")
    return buffer[:length]


# -- the mapped index ----------------------------------------------------------------------
#
# The layout is described in zerofs/flist/index.py, which writes it; these structs are its twin.

cdef packed struct NodeRow:
    uint64_t size
    int64_t mtime
    int64_t ctime
    uint64_t first  # dir: first child; file: first ref; link: offset of the target in names
    uint32_t count  # dir: children; file: refs; link: bytes of the target
    uint32_t mode
    uint32_t uid
    uint32_t gid
    uint32_t nlink
    uint32_t rdev
    uint32_t block_size
    uint32_t parent

cdef packed struct ChildRow:
    uint32_t name
    uint32_t node
    uint16_t name_length
    uint16_t kind  # the type's bits of st_mode
    uint32_t reserved

cdef packed struct ChunkRow:
    uint8_t id[32]
    uint8_t key[32]
    uint8_t id_form
    uint8_t key_form
    uint16_t reserved
    uint32_t size

cdef enum:
    MISSING = 0xFFFFFFFF  # count of a directory whose record the flist lacks
    FORM_HEX = 64  # 32 bytes that the flist spells as 64 lower-case hex digits
    FORM_NAMES = 255  # too long for the row: offset (8 bytes) and length (4) into names
    TYPE_MASK = 0o170000
    TYPE_DIR = 0o040000
    TYPE_FILE = 0o100000
    TYPE_LINK = 0o120000


@cython.final
cdef class IndexMap:
    """The tables of a compiled flist, as they lie in a mapped file.

    `buffer` is the whole file; `sections` are the (offset, count) pairs of nodes, children, names, refs
    and chunks.  Every number in the tables is checked here, once, so that nothing that the tables say
    leads outside the buffer afterwards: ValueError names what does not fit.  Rows are positions in the
    table of nodes, 0 is the root; the tables never change, so any thread may read them without a lock.
    """

    cdef Py_buffer view
    cdef bint held
    cdef const NodeRow *nodes
    cdef const ChildRow *child_rows
    cdef const char *names
    cdef const uint32_t *ref_rows
    cdef const ChunkRow *chunk_rows
    cdef readonly uint64_t node_count
    cdef readonly uint64_t child_count
    cdef readonly uint64_t names_size
    cdef readonly uint64_t ref_count
    cdef readonly uint64_t chunk_count

    def __cinit__(self, buffer, sections):
        cdef const char *base
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)
        self.held = True
        base = <const char *>self.view.buf
        (nodes, self.node_count), (children, self.child_count), (names, self.names_size), \
            (refs, self.ref_count), (chunks, self.chunk_count) = sections
        self.nodes = <const NodeRow *>(base + self._section(nodes, self.node_count, sizeof(NodeRow)))
        self.child_rows = <const ChildRow *>(base + self._section(children, self.child_count, sizeof(ChildRow)))
        self.names = base + self._section(names, self.names_size, 1)
        self.ref_rows = <const uint32_t *>(base + self._section(refs, self.ref_count, sizeof(uint32_t)))
        self.chunk_rows = <const ChunkRow *>(base + self._section(chunks, self.chunk_count, sizeof(ChunkRow)))
        if not 0 < self.node_count < MISSING or self.chunk_count >= MISSING:
            raise ValueError("the number of rows is out of range")
        cdef const char *fault
        with nogil:
            fault = self._first_fault()
        if fault != NULL:
            raise ValueError(fault.decode())

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    cdef size_t _section(self, uint64_t offset, uint64_t count, size_t row_size) except? 1:
        cdef uint64_t size = self.view.len
        if offset > size or offset % 8 or count > (size - offset) // row_size:
            raise ValueError("a section does not fit into the file")
        return offset

    cdef const char *_first_fault(self) noexcept nogil:
        """What is wrong with the tables, or NULL."""
        cdef uint64_t i
        cdef uint32_t kind
        cdef const NodeRow *node
        cdef const ChildRow *child
        if self.nodes[0].mode & TYPE_MASK != TYPE_DIR:
            return b"the root is no directory"
        for i in range(self.node_count):
            node = &self.nodes[i]
            kind = node.mode & TYPE_MASK
            if node.parent >= self.node_count or self.nodes[node.parent].mode & TYPE_MASK != TYPE_DIR:
                return b"the parent of a node is no directory"
            if node.size > <uint64_t>0x7FFFFFFFFFFFFFFF:
                return b"a size is out of range"
            if kind == TYPE_DIR:
                if node.count != MISSING and not _fits(node.first, node.count, self.child_count):
                    return b"the children of a directory lie outside the table"
            elif kind == TYPE_FILE:
                if not _fits(node.first, node.count, self.ref_count):
                    return b"the chunks of a file lie outside the table"
                if node.count and node.block_size == 0:
                    return b"a file has chunks of no size"
            elif kind == TYPE_LINK:
                if not _fits(node.first, node.count, self.names_size):
                    return b"the target of a link lies outside the names"
        for i in range(self.child_count):
            child = &self.child_rows[i]
            if child.node >= self.node_count:
                return b"a name leads to no node"
            if child.name_length == 0 or child.name_length > 255:
                return b"the length of a name is out of range"
            if not _fits(child.name, child.name_length, self.names_size):
                return b"a name lies outside the names"
        for i in range(self.ref_count):
            if self.ref_rows[i] >= self.chunk_count:
                return b"a file refers to no chunk"
        for i in range(self.chunk_count):
            if not self._form_fits(self.chunk_rows[i].id, self.chunk_rows[i].id_form):
                return b"the id of a chunk lies outside the names"
            if not self._form_fits(self.chunk_rows[i].key, self.chunk_rows[i].key_form):
                return b"the key of a chunk lies outside the names"
        return NULL

    cdef bint _form_fits(self, const uint8_t *field, uint8_t form) noexcept nogil:
        cdef uint64_t offset
        cdef uint32_t length
        if form <= 32 or form == FORM_HEX:
            return True
        if form != FORM_NAMES:
            return False
        memcpy(&offset, field, 8)
        memcpy(&length, field + 8, 4)
        return _fits(offset, length, self.names_size)

    cdef bytes _form(self, const uint8_t *field, uint8_t form):
        cdef uint64_t offset
        cdef uint32_t length
        if form <= 32:
            return (<const char *>field)[:form]
        if form == FORM_HEX:
            return hexlify((<const char *>field)[:32])
        memcpy(&offset, field, 8)
        memcpy(&length, field + 8, 4)
        return self.names[offset:offset + length]

    cdef int64_t find(self, uint64_t row, const char *name, size_t length) noexcept nogil:
        """The row of `name` in the directory `row`, or -1: names are sorted, so halves are cut off."""
        cdef const ChildRow *child
        cdef uint64_t low = self.nodes[row].first
        cdef uint64_t high, middle
        cdef int order
        if self.nodes[row].count == MISSING:
            return -1
        high = low + self.nodes[row].count
        while low < high:
            middle = (low + high) // 2
            child = &self.child_rows[middle]
            order = memcmp(self.names + child.name, name, min(<size_t>child.name_length, length))
            if order == 0:
                if child.name_length == length:
                    return child.node
                order = -1 if child.name_length < length else 1
            if order < 0:
                low = middle + 1
            else:
                high = middle
        return -1

    cdef bint is_directory(self, uint64_t row) noexcept nogil:
        return self.nodes[row].mode & TYPE_MASK == TYPE_DIR

    cdef int _check(self, uint64_t row) except -1:
        if row >= self.node_count:
            raise IndexError(f"there is no row {row}")
        return 0

    # What follows is for Python; each makes objects and none is on the path of a read.

    def __len__(self):
        return self.node_count

    def node(self, uint64_t row) -> tuple:
        """(mode, uid, gid, size, mtime, ctime, nlink, rdev, block size, parent, first, count) of a row."""
        self._check(row)
        cdef const NodeRow *node = &self.nodes[row]
        return (node.mode, node.uid, node.gid, node.size, node.mtime, node.ctime, node.nlink, node.rdev,
                node.block_size, node.parent, node.first, node.count)

    def lookup(self, uint64_t row, bytes name not None):
        """The row of `name` in the directory `row`, or None."""
        self._check(row)
        if not self.is_directory(row):
            return None
        cdef int64_t found = self.find(row, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return None if found < 0 else found

    def children(self, uint64_t row) -> list:
        """(name, row) of every entry of the directory `row`, sorted by name; empty where it is none."""
        cdef const ChildRow *child
        cdef uint64_t i, first
        self._check(row)
        if not self.is_directory(row) or self.nodes[row].count == MISSING:
            return []
        first = self.nodes[row].first
        entries = []
        for i in range(first, first + self.nodes[row].count):
            child = &self.child_rows[i]
            entries.append((self.names[child.name:child.name + child.name_length], child.node))
        return entries

    def target(self, uint64_t row) -> bytes:
        """The target of the link `row`."""
        self._check(row)
        cdef const NodeRow *node = &self.nodes[row]
        if node.mode & TYPE_MASK != TYPE_LINK:
            raise ValueError(f"row {row} is no link")
        return self.names[node.first:node.first + node.count]

    def refs(self, uint64_t row) -> list:
        """The chunk numbers of the file `row`, in order."""
        cdef uint64_t i
        self._check(row)
        cdef const NodeRow *node = &self.nodes[row]
        if node.mode & TYPE_MASK != TYPE_FILE:
            return []
        return [self.ref_rows[i] for i in range(node.first, node.first + node.count)]

    def chunk(self, uint64_t number) -> tuple:
        """(id, key, size in bytes) of a chunk; id and key as they stand in the flist."""
        if number >= self.chunk_count:
            raise IndexError(f"there is no chunk {number}")
        cdef const ChunkRow *chunk = &self.chunk_rows[number]
        return self._form(chunk.id, chunk.id_form), self._form(chunk.key, chunk.key_form), chunk.size


cdef inline bint _fits(uint64_t first, uint64_t count, uint64_t total) noexcept nogil:
    return first <= total and count <= total - first


# -- the operations that llfuse calls ------------------------------------------------------

cdef double FOREVER = 1e9  # seconds; nothing that the kernel was told ever changes by itself

log = logging.getLogger("zerofs.mount")


@cython.final
cdef class Reply:
    """Bytes of the mapped cache on their way into the kernel.

    The snapshot that keeps them valid is given back the moment the binding has written its answer
    (it releases the buffer then), so no snapshot outlives the request that it served.
    """

    cdef object snapshot
    cdef object view  # keeps the memory of `data`
    cdef const char *data
    cdef Py_ssize_t size
    cdef int exports

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void *>self.data, self.size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1
        if self.exports == 0:
            self._give_back()

    def __dealloc__(self):
        if self.snapshot is not None:
            self._give_back()

    cdef int _give_back(self) except -1:
        snapshot, self.snapshot, self.view = self.snapshot, None, None
        if snapshot is not None:
            snapshot.release()
        return 0


cdef class Operations:
    """A read-only file system over an `IndexMap`, in the shape that llfuse expects.

    Node ids are rows of the index plus one; handles are node ids, so open and release keep nothing.
    llfuse calls every method under its global lock, from several threads; only `read` lets go of it, while
    it waits for `fetch(chunk number, IndexMap)`, which returns the plain bytes or raises.

    `find(snapshot, name, verify)` semantics are those of `zerofs.cache.Snapshot.find`; `cache` may be None.
    `swap` replaces the index by one whose rows and chunk numbers are a superset of the old one's.

    An overlay above cannot bear a name to lead to another node while somebody holds the old one: it would
    answer ESTALE until the holder is gone.  So the names given to `swap` as `replaced` **linger**: those whose
    old node the kernel knows still lead to it, until the kernel forgets that node.
    """

    cdef IndexMap index
    cdef object cache
    cdef object cache_name
    cdef object fetch
    cdef object binding
    cdef object Entry
    cdef object Error
    cdef object lock
    cdef list names  # chunk number → name in the cache, made when first wanted
    cdef uintptr_t *checked  # chunk number → address at which its bytes were last found sound
    cdef uint64_t total_size
    cdef bytearray known  # row → 1 while the kernel may hold a reference to the node
    cdef dict lingering  # (row of the directory, name) → the old row that it still leads to
    cdef readonly uint64_t reads
    cdef readonly uint64_t bytes_read
    cdef readonly uint64_t cache_hits
    cdef readonly uint64_t failed_reads

    def __cinit__(self, IndexMap index not None, *, cache, cache_name, fetch, binding, uint64_t total_size=0):
        self.cache = cache
        self.cache_name = cache_name
        self.fetch = fetch
        self.binding = binding
        self.Entry = binding.EntryAttributes
        self.Error = binding.FUSEError
        self.lock = binding.lock
        self.checked = NULL
        self.known = bytearray()
        self.lingering = {}
        self.swap(index, total_size)

    def __dealloc__(self):
        PyMem_Free(self.checked)

    def swap(self, IndexMap index not None, uint64_t total_size=0, replaced=()):
        """Serve `index` from now on.  Call it with the binding's lock held, or before the mount.

        `replaced`: ((row of the directory, name), old row) of names that now lead elsewhere or nowhere.
        """
        cdef uint64_t known = 0 if self.index is None else self.index.chunk_count
        cdef uintptr_t *checked = <uintptr_t *>PyMem_Calloc(index.chunk_count + 1, sizeof(uintptr_t))
        if checked == NULL:
            raise MemoryError
        if index.chunk_count < known:
            PyMem_Free(checked)
            raise ValueError("the new index knows fewer chunks than the old one")
        if known:
            memcpy(checked, self.checked, known * sizeof(uintptr_t))
        PyMem_Free(self.checked)
        self.checked = checked
        self.names = (self.names or []) + [None] * <Py_ssize_t>(index.chunk_count - known)
        self.known.extend(bytes(index.node_count - <uint64_t>len(self.known)))
        for place, old in replaced:
            # replaced twice while it is held: it goes on leading to what the kernel knows
            if place not in self.lingering and self.known[old]:
                self.lingering[place] = old
        self.index = index
        self.total_size = total_size

    def lingering_names(self) -> list:
        """The (row of the directory, name) pairs that still lead to a node of before a swap."""
        return list(self.lingering)

    cdef object _error(self, int number):
        return self.Error(number)

    cdef int64_t _row(self, uint64_t inode) except -1:
        if inode == 0 or inode > self.index.node_count:
            raise self._error(ENOENT)
        return inode - 1

    cdef object _entry(self, uint64_t row):
        cdef const NodeRow *node = &self.index.nodes[row]
        entry = self.Entry()
        entry.st_ino = row + 1
        entry.generation = 0
        entry.entry_timeout = FOREVER
        entry.attr_timeout = FOREVER
        entry.st_mode = node.mode
        entry.st_nlink = node.nlink
        entry.st_uid = node.uid
        entry.st_gid = node.gid
        entry.st_rdev = node.rdev
        entry.st_size = node.size
        entry.st_blksize = 4096
        entry.st_blocks = (node.size + 511) // 512
        entry.st_atime_ns = node.mtime * 1000000000
        entry.st_mtime_ns = node.mtime * 1000000000
        entry.st_ctime_ns = node.ctime * 1000000000
        return entry

    def init(self):
        """Called when the mount is up."""

    def destroy(self):
        """Called when the mount is gone."""

    def lookup(self, uint64_t parent, bytes name not None, ctx):
        cdef int64_t row = self._row(parent)
        cdef int64_t found
        if not self.index.is_directory(row):
            raise self._error(ENOTDIR)
        if self.index.nodes[row].count == MISSING:
            raise self._error(EIO)
        if name == b".":
            return self._entry(row)
        if name == b"..":
            return self._entry(self.index.nodes[row].parent)
        if PyBytes_GET_SIZE(name) > 255:  # newer kernels pass on what they used to refuse
            raise self._error(ENAMETOOLONG)
        if self.lingering:
            old = self.lingering.get((row, name))
            if old is not None:
                entry = self._entry(old)
                entry.entry_timeout = 0
                return entry
        found = self.index.find(row, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if found >= 0:
            self.known[found] = 1
            return self._entry(found)
        negative = self.Entry()  # node id 0: the kernel remembers that there is no such name
        negative.st_ino = 0
        negative.entry_timeout = FOREVER
        return negative

    def forget(self, inodes):
        """The kernel dropped these nodes, each with all its lookups."""
        cdef uint64_t inode
        for inode, _ in inodes:
            if 0 < inode <= self.index.node_count:
                self.known[inode - 1] = 0
        if self.lingering:
            self.lingering = {place: old for place, old in self.lingering.items() if self.known[old]}

    def getattr(self, uint64_t inode, ctx):
        return self._entry(self._row(inode))

    def readlink(self, uint64_t inode, ctx):
        cdef int64_t row = self._row(inode)
        if self.index.nodes[row].mode & TYPE_MASK != TYPE_LINK:
            raise self._error(EINVAL)
        return self.index.target(row)

    def opendir(self, uint64_t inode, ctx):
        cdef int64_t row = self._row(inode)
        if not self.index.is_directory(row):
            raise self._error(ENOTDIR)
        if self.index.nodes[row].count == MISSING:
            raise self._error(EIO)
        return inode

    def readdir(self, uint64_t handle, uint64_t offset):
        """Entries from `offset` on; 0 and 1 are `.` and `..`."""
        cdef IndexMap index = self.index
        cdef int64_t row = self._row(handle)
        cdef const NodeRow *node = &index.nodes[row]
        cdef const ChildRow *child
        cdef uint64_t count = 0 if node.count == MISSING else node.count
        entry = self.Entry()
        for position in range(offset, count + 2):
            if position < 2:
                entry.st_ino = (row if position == 0 else node.parent) + 1
                entry.st_mode = TYPE_DIR
                name = b"." if position == 0 else b".."
            else:
                child = &index.child_rows[node.first + <uint64_t>position - 2]
                entry.st_ino = <uint64_t>child.node + 1
                entry.st_mode = child.kind
                name = index.names[child.name:child.name + child.name_length]
            yield name, entry, position + 1

    def releasedir(self, handle):
        """Handles keep nothing."""

    def fsyncdir(self, handle, datasync):
        """Nothing is ever dirty."""

    def open(self, uint64_t inode, flags, ctx):
        cdef int64_t row = self._row(inode)
        if flags & 0o3:  # anything but O_RDONLY
            raise self._error(EROFS)
        if self.index.is_directory(row):
            raise self._error(EISDIR)
        return inode

    def release(self, handle):
        """Handles keep nothing."""

    def flush(self, handle):
        raise self._error(ENOSYS)  # spares the kernel a request for every close from now on

    def fsync(self, handle, datasync):
        """Nothing is ever dirty."""

    def read(self, uint64_t handle, uint64_t offset, uint64_t size):
        """`size` bytes at `offset`, fewer only at the end of the file; EIO where a chunk cannot be had."""
        cdef IndexMap index = self.index
        cdef int64_t row = self._row(handle)
        cdef const NodeRow *node = &index.nodes[row]
        cdef uint64_t first, last
        if node.mode & TYPE_MASK != TYPE_FILE:
            raise self._error(EISDIR if index.is_directory(row) else EINVAL)
        if offset >= node.size or size == 0:
            return b""
        size = min(size, node.size - offset)
        self.reads += 1
        self.bytes_read += size
        if node.block_size == 0:
            self._fail()
        first = offset // node.block_size
        last = (offset + size - 1) // node.block_size
        if last >= node.count:  # the flist has no chunk for these bytes
            self._fail()
        if first == last:
            return self._piece(index, node, first, offset - first * node.block_size, size)
        return self._assemble(index, node, offset, size, first, last)

    cdef _fail(self):
        self.failed_reads += 1
        raise self._error(EIO)

    cdef bytes _assemble(self, IndexMap index, const NodeRow *node, uint64_t offset, uint64_t size,
                         uint64_t first, uint64_t last):
        """A read across chunk borders, copied together."""
        cdef uint64_t position, start, length, done = 0
        cdef Py_buffer view
        out = PyBytes_FromStringAndSize(NULL, size)
        for position in range(first, last + 1):
            start = offset + done - position * node.block_size
            length = min(node.block_size - start, size - done)
            piece = self._piece(index, node, position, start, length)
            PyObject_GetBuffer(piece, &view, PyBUF_SIMPLE)
            memcpy(PyBytes_AS_STRING(out) + done, view.buf, length)
            PyBuffer_Release(&view)
            done += length
        return out

    cdef object _piece(self, IndexMap index, const NodeRow *node, uint64_t position, uint64_t start,
                       uint64_t length):
        """`length` bytes from `start` of the chunk at `position` of a file: mapped if cached, else fetched."""
        cdef uint32_t number = index.ref_rows[node.first + position]
        cdef uint64_t expected = min(<uint64_t>node.block_size, node.size - position * node.block_size)
        piece = self._cached(index, number, expected, start, length)
        if piece is not None:
            self.cache_hits += 1
            return piece
        self.lock.release()
        try:
            plain = self.fetch(index, number)
        except ZerofsError:  # reported by `fetch`
            plain = None
        except Exception:  # nothing may reach the binding: it would end the session
            plain = None
            log.exception("fetching chunk %d of the flist", number)
        finally:
            self.lock.acquire()
        if plain is None:
            self._fail()
        if <uint64_t>len(plain) != expected:
            log.error("chunk %d of the flist has %d bytes where a file says %d", number, len(plain), expected)
            self._fail()
        return memoryview(plain)[start:start + length]

    cdef object _cached(self, IndexMap index, uint32_t number, uint64_t expected, uint64_t start, uint64_t length):
        cdef Py_buffer view
        cdef uintptr_t address
        cdef uint64_t size
        cdef Reply reply
        if self.cache is None:
            return None
        name = self.names[number]
        if name is None:
            name = self.names[number] = self.cache_name(index._form(index.chunk_rows[number].key,
                                                                    index.chunk_rows[number].key_form))
        snapshot = self.cache.snapshot()
        try:
            found = snapshot.find(name, verify=False) if self.checked[number] else snapshot.find(name)
            if found is None:
                snapshot.release()
                return None
            PyObject_GetBuffer(found, &view, PyBUF_SIMPLE)
            address = <uintptr_t>view.buf
            size = <uint64_t>view.len
            PyBuffer_Release(&view)
            if self.checked[number] and self.checked[number] != address:
                found = snapshot.find(name)  # it moved since its checksum was looked at
                if found is None:
                    snapshot.release()
                    return None
            if size != expected:
                snapshot.release()
                return None
        except BaseException:
            snapshot.release()
            raise
        self.checked[number] = address
        reply = Reply.__new__(Reply)
        reply.snapshot = snapshot
        reply.view = found
        reply.data = <const char *>address + start
        reply.size = length
        return reply

    def statfs(self, ctx):
        stats = self.binding.StatvfsData()
        stats.f_bsize = stats.f_frsize = 4096
        stats.f_blocks = (self.total_size + 4095) // 4096
        stats.f_bfree = stats.f_bavail = 0
        stats.f_files = self.index.node_count
        stats.f_ffree = stats.f_favail = 0
        stats.f_namemax = 255
        return stats

    def access(self, uint64_t inode, mode, ctx):
        """Only asked without default_permissions, where the kernel lets the mounter alone in."""
        self._row(inode)
        return not mode & 0o2  # W_OK

    def getxattr(self, uint64_t inode, name, ctx):
        self._row(inode)
        raise self._error(ENODATA)

    def listxattr(self, uint64_t inode, ctx):
        # llfuse cannot answer with an empty list (it appends a NUL); the kernel turns this into ENOTSUP
        raise self._error(ENOSYS)

    def _read_only(self, *arguments):
        raise self._error(EROFS)

    create = link = mkdir = mknod = removexattr = rename = rmdir = _read_only
    setattr = setxattr = symlink = unlink = write = _read_only

    def stacktrace(self):
        raise self._error(ENOSYS)
