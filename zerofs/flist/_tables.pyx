# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Builds the tables of an index.

Role: what `zerofs.flist.compile` fills while it walks a flist, and `zerofs.flist.graft` while it lays one
tree over another; never on the way of a read.  A flist may have millions of entries, so they are rows
from the start: rows are packed at the end of a bytearray, and what has to be found again (names, chunks)
is found through a hash table of numbers beside them, not through a dict of objects.

Hashes are those of Python's bytes, which a flist cannot foresee.  One thread, no locks.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from operator import itemgetter

from zerofs.errors import FlistCorruptError, FlistTooLargeError
from zerofs.flist.model import DIRECTORY_SIZE, Kind

# The layout is described in zerofs/flist/index.py; these structs are its twins.

cdef packed struct NodeRow:
    uint64_t size
    int64_t mtime
    int64_t ctime
    uint64_t first
    uint32_t count
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
    uint16_t kind
    uint32_t reserved

cdef packed struct ChunkRow:
    uint8_t id[32]
    uint8_t key[32]
    uint8_t id_form
    uint8_t key_form
    uint16_t reserved
    uint32_t size

cdef enum:
    MISSING = 0xFFFFFFFF
    FORM_HEX = 64
    FORM_NAMES = 255
    PERMISSIONS = 0o7777
    MAX_NAMES = 0xFFFFFFFF  # bytes of all names together
    MAX_FORM = 4096  # bytes of an id or key
    MAX_ROWS = 0xFFFFFFFE

cdef uint64_t MAX_TOTAL = 0x7FFFFFFFFFFFFFFF  # bytes of all files
cdef uint32_t TYPE_DIR = Kind.DIR
cdef uint32_t TYPE_FILE = Kind.FILE
cdef uint32_t TYPE_LINK = Kind.LINK
cdef uint64_t SIZE_OF_DIRECTORY = DIRECTORY_SIZE
cdef object NAME = itemgetter(0)

cdef uint8_t[256] HEX  # what a lower-case hex digit stands for; 16 for anything else
cdef const uint8_t *DIGITS = b"0123456789abcdef"
cdef int _value
memset(HEX, 16, sizeof(HEX))
for _value in range(16):
    HEX[DIGITS[_value]] = _value


cdef void *_append(bytearray table, size_t size) except NULL:
    """Room for `size` bytes at the end of `table`, zeroed."""
    cdef Py_ssize_t at = PyByteArray_GET_SIZE(table)
    PyByteArray_Resize(table, at + size)
    memset(PyByteArray_AS_STRING(table) + at, 0, size)
    return PyByteArray_AS_STRING(table) + at


# -- finding again -------------------------------------------------------------------------

cdef struct Slot:
    uint32_t hash
    uint32_t number  # of what is found, plus one; 0 for a free slot


@cython.final
cdef class Finder:
    """Numbers by the hash of what they stand for: open addressing, at most half full.

    Whoever asks walks from `start` over `following` slots and compares until one is free.
    """

    cdef Slot *slots
    cdef uint64_t mask
    cdef uint64_t used

    def __cinit__(self):
        self._allocate(1024)

    def __dealloc__(self):
        PyMem_Free(self.slots)

    cdef int _allocate(self, uint64_t count) except -1:
        cdef Slot *slots = <Slot *>PyMem_Calloc(count, sizeof(Slot))
        if slots == NULL:
            raise MemoryError
        self.slots = slots
        self.mask = count - 1
        return 0

    cdef int insert(self, uint32_t hash, uint32_t number) except -1:
        """Enter `number`, which must not be there yet."""
        cdef Slot *old = self.slots
        cdef uint64_t i, size = self.mask + 1
        if self.used * 2 >= size:
            self._allocate(size * 2)
            for i in range(size):
                if old[i].number:
                    self._place(old[i])
            PyMem_Free(old)
        self._place(Slot(hash, number + 1))
        self.used += 1
        return 0

    cdef void _place(self, Slot slot) noexcept:
        cdef uint64_t at = slot.hash & self.mask
        while self.slots[at].number:
            at = (at + 1) & self.mask
        self.slots[at] = slot


# -- names ---------------------------------------------------------------------------------

cdef struct Span:
    uint32_t start
    uint32_t length


@cython.final
cdef class NameTable:
    """The bytes of names and targets, each distinct one once."""

    cdef readonly bytearray content
    cdef bytearray spans
    cdef Finder finder

    def __init__(self, bytes content not None=b""):
        self.content = bytearray(content)
        self.spans = bytearray()
        self.finder = Finder()

    cpdef uint32_t add(self, bytes name) except? -1:
        """The offset of `name` in the section.  Raises FlistTooLargeError beyond 4 GiB."""
        cdef size_t length = PyBytes_GET_SIZE(name)
        cdef uint64_t start = PyByteArray_GET_SIZE(self.content)
        cdef uint32_t digest = <uint32_t>hash(name)
        cdef const Span *spans = <const Span *>PyByteArray_AS_STRING(self.spans)
        cdef const char *content = PyByteArray_AS_STRING(self.content)
        cdef const Span *span
        cdef const Slot *slot
        cdef uint64_t at = digest & self.finder.mask
        while True:
            slot = &self.finder.slots[at]
            if slot.number == 0:
                break
            if slot.hash == digest:
                span = &spans[slot.number - 1]
                if span.length == length and memcmp(content + span.start, PyBytes_AS_STRING(name), length) == 0:
                    return span.start
            at = (at + 1) & self.finder.mask
        if start + length > MAX_NAMES:
            raise FlistTooLargeError("the names of the flist take more than 4 GiB")
        memcpy(_append(self.content, length), PyBytes_AS_STRING(name), length)
        (<Span *>_append(self.spans, sizeof(Span)))[0] = Span(<uint32_t>start, <uint32_t>length)
        self.finder.insert(digest, <uint32_t>self.finder.used)
        return <uint32_t>start


# -- chunks --------------------------------------------------------------------------------

@cython.final
cdef class ChunkTable:
    """The distinct chunks, numbered as they come; the most bytes expected of each.

    Ids and keys of usual length are in the rows.  Longer ones go to the names, after all names of the
    tree: until `rows` is called they are held apart.
    """

    cdef NameTable names
    cdef bytearray table
    cdef Finder finder
    cdef dict unusual  # (id, key) → number

    def __init__(self, NameTable names not None):
        self.names = names
        self.table = bytearray()
        self.finder = Finder()
        self.unusual = {}

    cpdef uint32_t add(self, ref, uint32_t size) except? -1:
        """The number of the chunk `ref`, of which a file expects `size` bytes."""
        cdef bytes id, key
        cdef ChunkRow row
        cdef ChunkRow *known
        cdef const Slot *slot
        cdef uint32_t digest
        cdef uint64_t at
        id, key = ref
        memset(&row, 0, sizeof(row))
        row.size = size
        if not (_pack(id, row.id, &row.id_form) and _pack(key, row.key, &row.key_form)):
            return self._add_unusual(id, key, size)
        digest = <uint32_t>hash(id) ^ <uint32_t>hash(key) * 0x9E3779B1u
        at = digest & self.finder.mask
        while True:
            slot = &self.finder.slots[at]
            if slot.number == 0:
                break
            known = self._row(slot.number - 1)
            if slot.hash == digest and memcmp(known, &row, sizeof(row) - sizeof(row.size)) == 0:
                known.size = max(known.size, size)
                return slot.number - 1
            at = (at + 1) & self.finder.mask
        self.finder.insert(digest, self._new(&row))
        return self._count() - 1

    cdef uint32_t _add_unusual(self, bytes id, bytes key, uint32_t size) except? -1:
        cdef ChunkRow row
        cdef ChunkRow *known
        number = self.unusual.get((id, key))
        if number is None:
            if max(len(id), len(key)) > MAX_FORM:
                raise FlistCorruptError(f"the id or key of a chunk has more than {MAX_FORM} bytes")
            memset(&row, 0, sizeof(row))
            row.size = size
            number = self.unusual[id, key] = self._new(&row)
        known = self._row(number)
        known.size = max(known.size, size)
        return number

    def rows(self) -> bytearray:
        """The section of chunks.  To be called last: it may add to the names."""
        cdef uint32_t number
        cdef ChunkRow *row
        for (id, key), number in self.unusual.items():
            row = self._row(number)
            self._pack_unusual(id, row.id, &row.id_form)
            self._pack_unusual(key, row.key, &row.key_form)
        return self.table

    cdef ChunkRow *_row(self, uint32_t number) noexcept:
        return &(<ChunkRow *>PyByteArray_AS_STRING(self.table))[number]

    cdef uint32_t _count(self) noexcept:
        return <uint32_t>(<size_t>PyByteArray_GET_SIZE(self.table) // sizeof(ChunkRow))

    cdef uint32_t _new(self, const ChunkRow *row) except? -1:
        cdef uint32_t number = self._count()
        if number >= MAX_ROWS:
            raise FlistTooLargeError("the flist has more chunks than an index can number")
        (<ChunkRow *>_append(self.table, sizeof(ChunkRow)))[0] = row[0]
        return number

    cdef int _pack_unusual(self, bytes value, uint8_t *field, uint8_t *form) except -1:
        cdef uint64_t start
        cdef uint32_t length
        if not _pack(value, field, form):
            start = self.names.add(value)
            length = <uint32_t>PyBytes_GET_SIZE(value)
            memcpy(field, &start, 8)
            memcpy(field + 8, &length, 4)
            form[0] = FORM_NAMES
        return 0


cdef bint _pack(bytes value, uint8_t *field, uint8_t *form) noexcept:
    """Write an id or key of usual length into the 32 bytes of its field; False for another."""
    cdef size_t length = PyBytes_GET_SIZE(value)
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(value)
    cdef uint8_t packed[32]
    cdef uint8_t high, low
    cdef size_t i
    if length <= 32:
        memcpy(field, text, length)
        form[0] = <uint8_t>length
        return True
    if length != 64:
        return False
    for i in range(32):
        high, low = HEX[text[2 * i]], HEX[text[2 * i + 1]]
        if (high | low) > 15:
            return False
        packed[i] = <uint8_t>(high << 4 | low)
    memcpy(field, packed, 32)
    form[0] = FORM_HEX
    return True


# -- the tree ------------------------------------------------------------------------------

@cython.final
cdef class TreeTables:
    """The five sections, filled one directory after another; row 0, the root, is there from the start."""

    cdef NameTable names
    cdef ChunkTable chunks
    cdef bytearray nodes
    cdef bytearray children
    cdef bytearray refs

    def __init__(self):
        self.names = NameTable()
        self.chunks = ChunkTable(self.names)
        self.nodes = bytearray(sizeof(NodeRow))
        self.children = bytearray()
        self.refs = bytearray()

    def put(self, uint32_t row, uint32_t parent, directory) -> list:
        """Fill the row of a directory and append its entries, sorted; of equal names the first wins.

        Returns the (row, key) pairs of its subdirectories, whose rows are still to be filled.
        """
        cdef uint64_t first = <size_t>PyByteArray_GET_SIZE(self.children) // sizeof(ChildRow)
        cdef uint32_t child
        cdef bytes name, before = None
        cdef list below = []
        attributes, entries = directory
        for entry in sorted(entries, key=NAME):
            name = entry[0]
            if name == before:
                continue
            before = name
            child = self._add(entry, row, below)
            self._name(name, child, entry[1])
        self._fill_directory(
            row, parent, attributes, first,
            <uint32_t>(<size_t>PyByteArray_GET_SIZE(self.children) // sizeof(ChildRow) - first),
            <uint32_t>(2 + len(below)),
        )
        return below

    def put_missing(self, uint32_t row, uint32_t parent, attributes) -> None:
        """Fill the row of a directory without a record."""
        self._fill_directory(row, parent, attributes, 0, MISSING, 2)

    def sections(self) -> tuple:
        """(nodes, children, names, refs, chunks)."""
        chunks = self.chunks.rows()
        return self.nodes, self.children, self.names.content, self.refs, chunks

    cdef uint32_t _add(self, entry, uint32_t parent, list below) except? -1:
        """Append the row of an entry; one of a directory stays empty, and joins `below`."""
        cdef size_t row = <size_t>PyByteArray_GET_SIZE(self.nodes) // sizeof(NodeRow)
        cdef NodeRow node
        name, kind, attributes, size, key, target, device, block_size, chunks = entry
        if row >= MAX_ROWS:
            raise FlistTooLargeError("the flist has more entries than an index can number")
        memset(&node, 0, sizeof(node))
        node.mode = kind
        node.parent = parent
        node.nlink = 1
        if node.mode == TYPE_DIR:
            below.append((row, key))
        else:
            _own(&node, attributes)
            if node.mode & ~PERMISSIONS == TYPE_FILE:
                node.size = size
                node.block_size = block_size
                self._add_refs(&node, chunks)
            elif node.mode & ~PERMISSIONS == TYPE_LINK:
                node.size = node.count = <uint32_t>len(target)
                node.first = self.names.add(target)
            else:
                node.rdev = _encode_device(device)
        (<NodeRow *>_append(self.nodes, sizeof(NodeRow)))[0] = node
        return <uint32_t>row

    cdef int _add_refs(self, NodeRow *node, chunks) except -1:
        """The chunks of a file; those beyond its size are left out."""
        cdef uint64_t left = node.size
        cdef uint32_t number
        node.first = <size_t>PyByteArray_GET_SIZE(self.refs) // sizeof(uint32_t)
        for ref in chunks:
            if left == 0 or node.block_size == 0:
                break
            number = self.chunks.add(ref, <uint32_t>min(left, <uint64_t>node.block_size))
            (<uint32_t *>_append(self.refs, sizeof(uint32_t)))[0] = number
            node.count += 1
            left -= min(left, <uint64_t>node.block_size)
        return 0

    cdef int _name(self, bytes name, uint32_t node, uint16_t kind) except -1:
        cdef uint32_t start = self.names.add(name)
        cdef ChildRow *child = <ChildRow *>_append(self.children, sizeof(ChildRow))
        child.name = start
        child.node = node
        child.name_length = <uint16_t>PyBytes_GET_SIZE(name)
        child.kind = kind
        return 0

    cdef int _fill_directory(
        self, uint32_t row, uint32_t parent, attributes, uint64_t first, uint32_t count, uint32_t nlink
    ) except -1:
        cdef NodeRow node
        if row >= <size_t>PyByteArray_GET_SIZE(self.nodes) // sizeof(NodeRow):
            raise IndexError(f"there is no row {row}")
        memset(&node, 0, sizeof(node))
        node.mode = TYPE_DIR
        node.parent = parent
        node.size = SIZE_OF_DIRECTORY
        node.first = first
        node.count = count
        node.nlink = nlink
        _own(&node, attributes)
        (<NodeRow *>PyByteArray_AS_STRING(self.nodes))[row] = node
        return 0


cdef int _own(NodeRow *node, attributes) except -1:
    """Owner, permissions and times."""
    cdef uint32_t mode
    mode, node.uid, node.gid, node.mtime, node.ctime = attributes
    node.mode |= mode & PERMISSIONS
    return 0


cdef uint32_t _encode_device(device) except? -1:
    """A device number as the kernel's 32 bits: 12 of major, 20 of minor."""
    cdef uint32_t major, minor
    major, minor = device
    return (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & 0xFFF00) << 12)


def total_size(const uint8_t[::1] nodes not None) -> int:
    """The bytes of all files of a table of nodes, at most what a signed 64-bit number holds."""
    cdef uint64_t total = 0
    cdef size_t i
    cdef NodeRow node
    for i in range(<size_t>nodes.shape[0] // sizeof(NodeRow)):
        memcpy(&node, &nodes[i * sizeof(NodeRow)], sizeof(NodeRow))
        if node.mode & ~PERMISSIONS == TYPE_FILE:
            total = MAX_TOTAL if node.size > MAX_TOTAL - total else total + node.size
    return total
