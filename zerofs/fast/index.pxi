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

cdef struct Tables:
    const NodeRow *nodes
    const ChildRow *children
    const char *names
    const uint32_t *refs
    const ChunkRow *chunks
    uint64_t node_count
    uint64_t child_count
    uint64_t names_size
    uint64_t ref_count
    uint64_t chunk_count

cdef enum:
    MISSING = 0xFFFFFFFF  # count of a directory whose record the flist lacks
    FORM_HEX = 64  # 32 bytes that the flist spells as 64 lower-case hex digits
    FORM_NAMES = 255  # too long for the row: offset (8 bytes) and length (4) into names
    TYPE_MASK = 0o170000
    TYPE_DIR = 0o040000
    TYPE_FILE = 0o100000
    TYPE_LINK = 0o120000
    MODE_MASK = 0o177777
    BLOCK_UNIT = 4096  # what the size of chunks is a multiple of: the engine's answers have room for so many pieces
    MOST_BLOCK = 0xFFFF * BLOCK_UNIT  # bytes; the most that a record of any generation can say
    MOST_FORM = 4096  # bytes of an id or key


cdef inline bint _fits(uint64_t first, uint64_t count, uint64_t total) noexcept nogil:
    return first <= total and count <= total - first


cdef bint _is_known_mode(uint32_t mode) noexcept nogil:
    """Whether it is a type that a file can have, and permissions."""
    return mode & ~<uint32_t>MODE_MASK == 0 and mode & TYPE_MASK in (
        TYPE_DIR, TYPE_FILE, TYPE_LINK, 0o020000, 0o060000, 0o010000, 0o140000)


cdef bint _is_name(const char *name, size_t length) noexcept nogil:
    """Whether it can be one name of a path."""
    if memchr(name, c'/', length) != NULL or memchr(name, 0, length) != NULL:
        return False
    return name[0] != c'.' or length > 2 or (length == 2 and name[1] != c'.')


cdef const char *_node_fault(const Tables *tables, const NodeRow *node) noexcept nogil:
    """What is wrong with a row, or NULL.  The caller looks at its parent, and at the names of a directory."""
    cdef uint32_t kind = node.mode & TYPE_MASK
    if not _is_known_mode(node.mode):
        return b"a node is of no known type"
    if node.size > <uint64_t>0x7FFFFFFFFFFFFFFF:
        return b"a size is out of range"
    if kind == TYPE_DIR:
        if node.count != MISSING and not _fits(node.first, node.count, tables.child_count):
            return b"the children of a directory lie outside the table"
    elif kind == TYPE_FILE:
        if not _fits(node.first, node.count, tables.ref_count):
            return b"the chunks of a file lie outside the table"
        if node.count and (node.block_size == 0 or node.block_size % BLOCK_UNIT or node.block_size > MOST_BLOCK):
            return b"a file has chunks of an impossible size"
        if node.count and (<uint64_t>node.count - 1) * node.block_size >= node.size:
            return b"a file has more chunks than bytes for them"
    elif kind == TYPE_LINK:
        if not _fits(node.first, node.count, tables.names_size):
            return b"the target of a link lies outside the names"
    return NULL


cdef const char *_child_fault(const Tables *tables, const ChildRow *child) noexcept nogil:
    """What is wrong with a name, or NULL; with the node that it leads to only where that says another type."""
    if child.node >= tables.node_count:
        return b"a name leads to no node"
    if child.name_length == 0 or child.name_length > 255:
        return b"the length of a name is out of range"
    if not _fits(child.name, child.name_length, tables.names_size):
        return b"a name lies outside the names"
    if not _is_name(tables.names + child.name, child.name_length):
        return b"a name is none"
    if child.kind != tables.nodes[child.node].mode & TYPE_MASK:
        return b"a name says another type than its node"
    return NULL


cdef const char *_tree_fault(const Tables *tables, uint32_t *pending, uint8_t *seen) noexcept nogil:
    """What is wrong with what the root leads to, or NULL: every row once, or a walk would not end; names sorted.

    `pending` and `seen` have room for every node; `seen` is zero.  Rows are in the order of this walk, so that it
    passes over each table once.
    """
    cdef uint64_t i, first, done = 0, found = 1
    cdef const char *fault = _node_fault(tables, &tables.nodes[0])
    cdef const NodeRow *node
    cdef const ChildRow *child
    cdef const ChildRow *before
    if not is_directory(tables, 0):
        return b"the root is no directory"
    pending[0], seen[0] = 0, 1
    while fault == NULL and done < found:
        before = NULL
        first = tables.nodes[pending[done]].first
        for i in range(first, first + _names_of(&tables.nodes[pending[done]])):
            child = &tables.children[i]
            fault = _child_fault(tables, child)
            if fault != NULL:
                return fault
            if seen[child.node]:
                return b"two names lead to one node"
            seen[child.node] = 1
            node = &tables.nodes[child.node]
            fault = _node_fault(tables, node)
            if fault != NULL:
                return fault
            if node.parent != pending[done]:
                return b"a node says another parent than the one that names it"
            if before != NULL and _order(tables, before, child) >= 0:
                return b"the names of a directory are not sorted"
            before = child
            if child.kind == TYPE_DIR:
                pending[found] = child.node
                found += 1
        done += 1
    return fault


cdef const char *_rest_fault(const Tables *tables, const uint8_t *seen) noexcept nogil:
    """What is wrong with the root's parent and with the rows that it does not lead to, or NULL.

    A swap leaves such rows behind; whoever has one open may still ask for it.
    """
    cdef uint64_t row, i
    cdef const NodeRow *node
    cdef const char *fault
    for row in range(tables.node_count):
        if seen[row] and row:
            continue
        node = &tables.nodes[row]
        if node.parent >= tables.node_count or not is_directory(tables, node.parent):
            return b"the parent of a node is no directory"
        if seen[row]:
            continue
        fault = _node_fault(tables, node)
        if fault != NULL:
            return fault
        for i in range(node.first, node.first + _names_of(node)):
            fault = _child_fault(tables, &tables.children[i])
            if fault != NULL:
                return fault
    return NULL


cdef const char *_chunk_fault(const Tables *tables) noexcept nogil:
    """What is wrong with the tables of refs and chunks, or NULL."""
    cdef uint64_t i
    for i in range(tables.ref_count):
        if tables.refs[i] >= tables.chunk_count:
            return b"a file refers to no chunk"
    for i in range(tables.chunk_count):
        if not _form_fits(tables, tables.chunks[i].id, tables.chunks[i].id_form):
            return b"the id of a chunk lies outside the names"
        if not _form_fits(tables, tables.chunks[i].key, tables.chunks[i].key_form):
            return b"the key of a chunk lies outside the names"
        if tables.chunks[i].size > MOST_BLOCK:
            return b"the size of a chunk is out of range"
    return NULL


cdef inline uint64_t _names_of(const NodeRow *node) noexcept nogil:
    """How many names a directory has; other kinds have none."""
    return 0 if node.count == MISSING or node.mode & TYPE_MASK != TYPE_DIR else node.count


cdef int _order(const Tables *tables, const ChildRow *one, const ChildRow *other) noexcept nogil:
    cdef int order = memcmp(tables.names + one.name, tables.names + other.name,
                            min(one.name_length, other.name_length))
    return order if order else <int>one.name_length - <int>other.name_length


cdef bint _form_fits(const Tables *tables, const uint8_t *field, uint8_t form) noexcept nogil:
    cdef uint64_t offset
    cdef uint32_t length
    if form <= 32 or form == FORM_HEX:
        return True
    if form != FORM_NAMES:
        return False
    memcpy(&offset, field, 8)
    memcpy(&length, field + 8, 4)
    return length <= MOST_FORM and _fits(offset, length, tables.names_size)


cdef int64_t find_child(const Tables *tables, uint64_t row, const char *name, size_t length) noexcept nogil:
    """The row of `name` in the directory `row`, or -1: names are sorted, so halves are cut off."""
    cdef const ChildRow *child
    cdef uint64_t low = tables.nodes[row].first
    cdef uint64_t high, middle
    cdef int order
    if tables.nodes[row].count == MISSING:
        return -1
    high = low + tables.nodes[row].count
    while low < high:
        middle = (low + high) // 2
        child = &tables.children[middle]
        order = memcmp(tables.names + child.name, name, min(<size_t>child.name_length, length))
        if order == 0:
            if child.name_length == length:
                return child.node
            order = -1 if child.name_length < length else 1
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return -1


cdef bint is_directory(const Tables *tables, uint64_t row) noexcept nogil:
    return tables.nodes[row].mode & TYPE_MASK == TYPE_DIR


@cython.final
cdef class IndexMap:
    """The tables of a compiled flist, as they lie in a mapped file.

    `buffer` is the whole file; `sections` are the (offset, count) pairs of nodes, children, names, refs
    and chunks.  Every number in the tables is checked here, once, so that nothing that the tables say
    leads outside the buffer afterwards: ValueError names what does not fit.  Rows are positions in the
    table of nodes, 0 is the root; the tables never change, so any thread may read them without a lock.

    `guard` guards the mapping, if it is one.  Where a page of it cannot be had, methods raise FlistCorruptError.
    """

    cdef readonly GuardedMap guard
    cdef Py_buffer view
    cdef bint held
    cdef Tables tables

    def __cinit__(self, buffer, sections, GuardedMap guard=None):
        cdef const char *base
        self.guard = guard
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)
        self.held = True
        base = <const char *>self.view.buf
        (nodes, self.tables.node_count), (children, self.tables.child_count), (names, self.tables.names_size), \
            (refs, self.tables.ref_count), (chunks, self.tables.chunk_count) = sections
        self.tables.nodes = <const NodeRow *>(base + self._section(nodes, self.tables.node_count, sizeof(NodeRow)))
        self.tables.children = <const ChildRow *>(
            base + self._section(children, self.tables.child_count, sizeof(ChildRow)))
        self.tables.names = base + self._section(names, self.tables.names_size, 1)
        self.tables.refs = <const uint32_t *>(base + self._section(refs, self.tables.ref_count, sizeof(uint32_t)))
        self.tables.chunks = <const ChunkRow *>(
            base + self._section(chunks, self.tables.chunk_count, sizeof(ChunkRow)))
        if not 0 < self.tables.node_count < MISSING or self.tables.chunk_count >= MISSING:
            raise ValueError("the number of rows is out of range")
        cdef const char *fault
        cdef uint32_t *pending = <uint32_t *>PyMem_RawMalloc(self.tables.node_count * sizeof(uint32_t))
        cdef uint8_t *seen = <uint8_t *>PyMem_RawCalloc(self.tables.node_count, 1)
        if pending == NULL or seen == NULL:
            PyMem_RawFree(pending)
            PyMem_RawFree(seen)
            raise MemoryError
        with nogil:
            fault = _tree_fault(&self.tables, pending, seen)
            if fault == NULL:
                fault = _rest_fault(&self.tables, seen)
            if fault == NULL:
                fault = _chunk_fault(&self.tables)
        PyMem_RawFree(pending)
        PyMem_RawFree(seen)
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

    cdef bytes _form(self, const uint8_t *field, uint8_t form):
        cdef uint64_t offset
        cdef uint32_t length
        if form <= 32:
            return (<const char *>field)[:form]
        if form == FORM_HEX:
            return hexlify((<const char *>field)[:32])
        memcpy(&offset, field, 8)
        memcpy(&length, field + 8, 4)
        return self.tables.names[offset:offset + length]

    cdef uint32_t faults(self) noexcept nogil:
        """Pages that could not be had so far."""
        return 0 if self.guard is None else self.guard.count()

    cdef inline bint is_whole(self) noexcept nogil:
        """Whether all pages could be had, so far or since they were restored."""
        return self.guard is None or self.guard.is_whole()

    cdef object _whole(self, found):
        """`found`, unless it may come from a page that cannot be had."""
        if not self.is_whole():
            raise _unreadable()
        return found

    cdef int _check(self, uint64_t row) except -1:
        if row >= self.tables.node_count:
            raise IndexError(f"there is no row {row}")
        return 0

    # What follows is for Python; each makes objects and none is on the path of a read.

    @property
    def node_count(self):
        return self.tables.node_count

    @property
    def chunk_count(self):
        return self.tables.chunk_count

    def __len__(self):
        return self.tables.node_count

    def node(self, uint64_t row) -> tuple:
        """(mode, uid, gid, size, mtime, ctime, nlink, rdev, block size, parent, first, count) of a row."""
        self._check(row)
        cdef const NodeRow *node = &self.tables.nodes[row]
        return self._whole((node.mode, node.uid, node.gid, node.size, node.mtime, node.ctime, node.nlink, node.rdev,
                            node.block_size, node.parent, node.first, node.count))

    def lookup(self, uint64_t row, bytes name not None):
        """The row of `name` in the directory `row`, or None."""
        self._check(row)
        if not is_directory(&self.tables, row):
            return self._whole(None)
        cdef int64_t found = find_child(&self.tables, row, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return self._whole(None if found < 0 else found)

    def children(self, uint64_t row) -> list:
        """(name, row) of every entry of the directory `row`, sorted by name; empty where it is none."""
        cdef const ChildRow *child
        cdef uint64_t i, first
        self._check(row)
        if not is_directory(&self.tables, row) or self.tables.nodes[row].count == MISSING:
            return self._whole([])
        first = self.tables.nodes[row].first
        entries = []
        for i in range(first, first + self.tables.nodes[row].count):
            child = &self.tables.children[i]
            entries.append((self.tables.names[child.name:child.name + child.name_length], child.node))
        return self._whole(entries)

    def target(self, uint64_t row) -> bytes:
        """The target of the link `row`."""
        self._check(row)
        cdef const NodeRow *node = &self.tables.nodes[row]
        if node.mode & TYPE_MASK != TYPE_LINK:
            raise ValueError(f"row {row} is no link")
        return self._whole(self.tables.names[node.first:node.first + node.count])

    def refs(self, uint64_t row, uint64_t first=0, uint64_t most=MISSING) -> list:
        """The chunk numbers of the file `row`, in order; at most so many from position `first` on."""
        cdef uint64_t i, count
        self._check(row)
        cdef NodeRow node = self.tables.nodes[row]  # checked once, whatever becomes of its page
        if node.mode & TYPE_MASK != TYPE_FILE or first >= node.count:
            return self._whole([])
        count = min(most, node.count - first)
        return self._whole([self.tables.refs[i] for i in range(node.first + first, node.first + first + count)])

    def file_length(self, uint64_t row) -> int:
        """How many chunks the file `row` has; 0 where it is none."""
        self._check(row)
        cdef const NodeRow *node = &self.tables.nodes[row]
        return self._whole(node.count if node.mode & TYPE_MASK == TYPE_FILE else 0)

    def chunk_size(self, uint64_t number) -> int:
        """The plain bytes of a chunk."""
        if number >= self.tables.chunk_count:
            raise IndexError(f"there is no chunk {number}")
        return self._whole(self.tables.chunks[number].size)

    def chunk(self, uint64_t number) -> tuple:
        """(id, key, size in bytes) of a chunk; id and key as they stand in the flist."""
        if number >= self.tables.chunk_count:
            raise IndexError(f"there is no chunk {number}")
        cdef const ChunkRow *chunk = &self.tables.chunks[number]
        return self._whole(
            (self._form(chunk.id, chunk.id_form), self._form(chunk.key, chunk.key_form), chunk.size))
