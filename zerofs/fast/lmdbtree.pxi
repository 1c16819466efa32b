# -- LMDB's trees, walked without LMDB -------------------------------------------------------
#
# py-lmdb needs the interpreter, and one thread at a time in a transaction.  Who only wants to know where an entry lies
# needs neither: the pages of a tree never change as long as a read transaction pins them, so any number of
# threads may walk it.
#
# Why that is safe:
# - The transaction, py-lmdb's, says which pages must stay, in LMDB's table of readers: writers of all processes leave
#   alone what was reachable in it.  Whoever walks has to be done before it ends: see the head of views.pxi for how
#   the engine waits for that.
# - `pin` finds the root of the tree once, when the transaction has just begun.  It starts from the meta page that the
#   transaction began with, and only there somebody may be writing: the transaction after next.  That one begins
#   when the next one has ended, which writes the other meta page.  So the other page is looked at last: while its
#   number still is a lower one than the transaction's, what was read before was whole.
# - Nothing in the file is trusted.  A page number leads to a page below the transaction's end, which lies in the map; an
#   offset leads to a node within its page; the way down is as long as the tree says that it is deep.  A damaged file can lead to
#   a wrong entry, and its header says so, or to none.
# - The walk goes on in the mapping for the kernel (`GuardedMap`), where no pages of zeros are, inside `zerofs_try`: a
#   page that the disk cannot give ends it.
#
# Whatever is unusual makes it UNSURE: then LMDB is asked, and who asks it knows what an error of it means.

cdef extern from "lmdb_pages.h" nogil:
    bint ZEROFS_LMDB_FITS
    uint32_t ZEROFS_LMDB_MAGIC
    uint64_t ZEROFS_LMDB_NO_PAGE
    enum:
        ZEROFS_LMDB_VERSION, ZEROFS_LMDB_HEADER
        ZEROFS_LMDB_BRANCH, ZEROFS_LMDB_LEAF, ZEROFS_LMDB_OVERFLOW, ZEROFS_LMDB_META
        ZEROFS_LMDB_BIG, ZEROFS_LMDB_TREE
        ZEROFS_LMDB_SMALLEST_PAGE, ZEROFS_LMDB_LARGEST_PAGE, ZEROFS_LMDB_DEEPEST
    struct zerofs_lmdb_page:
        uint64_t number
        uint16_t kind
        uint16_t lower
        uint16_t upper
        uint32_t pages
    struct zerofs_lmdb_node:
        uint16_t low
        uint16_t high
        uint16_t flags
        uint16_t name_size
    struct zerofs_lmdb_tree:
        uint32_t page_size
        uint16_t flags
        uint16_t depth
        uint64_t branches
        uint64_t leaves
        uint64_t overflows
        uint64_t entries
        uint64_t root
    struct zerofs_lmdb_meta:
        uint32_t magic
        uint32_t version
        zerofs_lmdb_tree free
        zerofs_lmdb_tree main
        uint64_t last_page
        uint64_t transaction

cdef extern from "guarded.h" nogil:
    int zerofs_try(int (*work)(void *) noexcept nogil, void *argument, const void *start, uintptr_t size) noexcept

cdef enum:
    UNSURE = -1  # what `zerofs_try` says of a page that cannot be had
    ABSENT = 0
    FOUND = 1

cdef struct Tree:
    const char *pages  # the map
    uint64_t size  # of the map
    uint64_t page_size
    uint64_t page_count  # of the transaction; all of them lie in the map
    uint64_t root
    uint16_t depth

cdef struct Pinning:
    Tree *tree
    uint64_t transaction
    const char *name  # of the database
    size_t name_size

cdef struct Value:
    const char *data
    uint64_t size
    bint is_tree

cdef struct Lookup:
    const Tree *tree  # set by `look_up`
    const char *name
    size_t name_size
    const char *sound  # an address at which the bytes need not be checked
    const char *data  # out: the plain bytes
    uint64_t size


cdef inline const zerofs_lmdb_page *_page(const Tree *tree, uint64_t number) noexcept nogil:
    """A page that lies in the map, or NULL."""
    cdef const zerofs_lmdb_page *page
    if number < 2 or number >= tree.page_count:
        return NULL
    page = <const zerofs_lmdb_page *>(tree.pages + number * tree.page_size)
    return page if page.number == number else NULL


cdef inline const zerofs_lmdb_node *_node(const Tree *tree, const zerofs_lmdb_page *page, uint32_t position) noexcept nogil:
    """A node whose name lies in its page, or NULL; `position` is below `_node_count`."""
    cdef const zerofs_lmdb_node *node
    cdef uint64_t offset = (<const uint16_t *>(<const char *>page + ZEROFS_LMDB_HEADER))[position]
    if offset < ZEROFS_LMDB_HEADER or offset % 2 or offset + sizeof(zerofs_lmdb_node) > tree.page_size:
        return NULL
    node = <const zerofs_lmdb_node *>(<const char *>page + offset)
    return node if offset + sizeof(zerofs_lmdb_node) + node.name_size <= tree.page_size else NULL


cdef inline uint32_t _node_count(const Tree *tree, const zerofs_lmdb_page *page) noexcept nogil:
    """How many nodes the page has; 0 where that cannot be."""
    if not ZEROFS_LMDB_HEADER <= page.lower <= page.upper or page.upper > tree.page_size:
        return 0
    return (page.lower - ZEROFS_LMDB_HEADER) // 2


cdef int _locate(const Tree *tree, const zerofs_lmdb_page *page, uint32_t first, uint32_t count, const char *name,
                 size_t name_size, uint32_t *position) noexcept nogil:
    """The first of the nodes from `first` on whose name is not below `name`: FOUND where it is the same one."""
    cdef const zerofs_lmdb_node *node
    cdef uint32_t low = first, high = count, middle
    cdef int order
    while low < high:
        middle = (low + high) // 2
        node = _node(tree, page, middle)
        if node == NULL:
            return UNSURE
        order = memcmp(<const char *>node + sizeof(zerofs_lmdb_node), name, min(<size_t>node.name_size, name_size))
        if order == 0 and node.name_size == name_size:
            position[0] = middle
            return FOUND
        if order < 0 or (order == 0 and node.name_size < name_size):
            low = middle + 1
        else:
            high = middle
    position[0] = low
    return ABSENT


cdef uint64_t _below(const Tree *tree, const zerofs_lmdb_page *page, const char *name, size_t name_size) noexcept nogil:
    """The number of the page below a branch page that `name` belongs to; 0 where that cannot be told."""
    cdef const zerofs_lmdb_node *node
    cdef uint32_t count = _node_count(tree, page), position
    cdef int exact
    if count < 2:
        return 0
    exact = _locate(tree, page, 1, count, name, name_size, &position)
    if exact == UNSURE:
        return 0
    node = _node(tree, page, position if exact == FOUND else position - 1)
    return 0 if node == NULL else node.low | <uint64_t>node.high << 16 | <uint64_t>node.flags << 32


cdef int _value(const Tree *tree, const zerofs_lmdb_page *page, uint32_t position, Value *value) noexcept nogil:
    """The value of a node of a leaf page, wherever it lies."""
    cdef const zerofs_lmdb_node *node = _node(tree, page, position)
    cdef const zerofs_lmdb_page *overflow
    cdef const char *data
    cdef uint64_t size, room, number
    if node == NULL:
        return UNSURE
    data = <const char *>node + sizeof(zerofs_lmdb_node) + node.name_size
    room = tree.page_size - <uint64_t>(data - <const char *>page)
    size = node.low | <uint64_t>node.high << 16
    value.size = size
    value.is_tree = node.flags == ZEROFS_LMDB_TREE
    if node.flags == 0 or value.is_tree:
        value.data = data
        return FOUND if size <= room else UNSURE
    if node.flags != ZEROFS_LMDB_BIG or room < 8:
        return UNSURE
    memcpy(&number, data, 8)
    overflow = _page(tree, number)
    if overflow == NULL or overflow.kind != ZEROFS_LMDB_OVERFLOW:
        return UNSURE
    if overflow.pages > tree.page_count - number or size > overflow.pages * tree.page_size - ZEROFS_LMDB_HEADER:
        return UNSURE
    value.data = <const char *>overflow + ZEROFS_LMDB_HEADER
    return FOUND


cdef int walk(const Tree *tree, const char *name, size_t name_size, Value *value) noexcept nogil:
    """The value under `name`.  Call it inside `zerofs_try`, on the pages of a transaction that has not ended."""
    cdef const zerofs_lmdb_page *page
    cdef uint64_t number = tree.root
    cdef uint32_t position, count
    cdef uint16_t level
    cdef int found
    if number == ZEROFS_LMDB_NO_PAGE:
        return ABSENT
    for level in range(1, tree.depth):
        page = _page(tree, number)
        if page == NULL or page.kind != ZEROFS_LMDB_BRANCH:
            return UNSURE
        number = _below(tree, page, name, name_size)
    page = _page(tree, number)
    if page == NULL or page.kind != ZEROFS_LMDB_LEAF:
        return UNSURE
    count = _node_count(tree, page)
    if count == 0:
        return UNSURE
    found = _locate(tree, page, 0, count, name, name_size, &position)
    return _value(tree, page, position, value) if found == FOUND else found


cdef bint _set_root(Tree *tree, const zerofs_lmdb_tree *numbers) noexcept nogil:
    """Whether `numbers` are those of a tree that can be walked."""
    tree.root, tree.depth = numbers.root, numbers.depth
    if numbers.root == ZEROFS_LMDB_NO_PAGE:
        return numbers.depth == 0
    return numbers.flags == 0 and 0 < numbers.depth <= ZEROFS_LMDB_DEEPEST


cdef int _pin(void *argument) noexcept nogil:
    cdef Pinning *pinning = <Pinning *>argument
    cdef Tree *tree = pinning.tree
    cdef uint64_t parity = pinning.transaction % 2
    cdef const char *place = tree.pages + parity * tree.page_size
    cdef const char *other = tree.pages + (1 - parity) * tree.page_size
    cdef zerofs_lmdb_meta meta
    cdef zerofs_lmdb_tree numbers
    cdef Value value
    memcpy(&meta, place + ZEROFS_LMDB_HEADER, sizeof(meta))
    zerofs_fence()
    if zerofs_tallied(&(<const zerofs_lmdb_meta *>(other + ZEROFS_LMDB_HEADER)).transaction) >= pinning.transaction:
        return UNSURE  # the transaction after next may have begun, and written into what was read
    if (<const zerofs_lmdb_page *>place).kind != ZEROFS_LMDB_META or meta.transaction != pinning.transaction:
        return UNSURE
    if meta.magic != ZEROFS_LMDB_MAGIC or meta.version != ZEROFS_LMDB_VERSION:
        return UNSURE
    if meta.free.page_size != tree.page_size or meta.last_page >= tree.page_count:
        return UNSURE
    tree.page_count = meta.last_page + 1
    if not _set_root(tree, &meta.main) or walk(tree, pinning.name, pinning.name_size, &value) != FOUND:
        return UNSURE
    if not value.is_tree or value.size != sizeof(numbers):
        return UNSURE
    memcpy(&numbers, value.data, sizeof(numbers))
    return FOUND if _set_root(tree, &numbers) else UNSURE


cdef int _look_up(void *argument) noexcept nogil:
    cdef Lookup *lookup = <Lookup *>argument
    cdef Value value
    cdef int found = walk(lookup.tree, lookup.name, lookup.name_size, &value)
    if found != FOUND:
        return found
    if value.is_tree or not is_entry(lookup.name, lookup.name_size, value.data, value.size):
        return UNSURE
    lookup.data = value.data + sizeof(EntryHeader)
    lookup.size = value.size - sizeof(EntryHeader)
    if lookup.data != lookup.sound and not is_sound(lookup.name, lookup.name_size, value.data, value.size):
        return UNSURE
    return FOUND


cdef int look_up(const Tree *tree, Lookup *lookup) noexcept nogil:
    """Find an entry and check it.  What is FOUND is valid, and for the kernel, as long as the tree is pinned."""
    lookup.tree = tree
    return zerofs_try(_look_up, lookup, tree.pages, tree.size)


@cython.final
cdef class PinnedTree:
    """The tree of the database `name`, as the read transaction with the id `transaction` sees it, in the map of `guard`.

    For any thread, until the transaction ends.  Raises LookupError where the tree cannot be found without LMDB.
    """

    cdef GuardedMap guard
    cdef Tree tree

    def __cinit__(self, GuardedMap guard not None, uint64_t page_size, uint64_t transaction, bytes name not None):
        cdef Pinning pinning
        self.guard = guard
        self.tree.pages, self.tree.size = guard.again, guard.size
        self.tree.page_size = page_size
        pinning.tree, pinning.transaction = &self.tree, transaction
        pinning.name, pinning.name_size = PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
        if not ZEROFS_LMDB_FITS or guard.again == NULL or page_size % 2 or not (
                ZEROFS_LMDB_SMALLEST_PAGE <= page_size <= ZEROFS_LMDB_LARGEST_PAGE) or guard.size < 2 * page_size:
            raise LookupError("these pages cannot be read")
        self.tree.page_count = guard.size // page_size
        if zerofs_try(_pin, &pinning, guard.again, guard.size) != FOUND:
            raise LookupError("the root of the tree is not where it was")

    def find(self, bytes name not None) -> memoryview | None:
        """The plain bytes under `name`, checked, as a view for the kernel; None where there is no such entry.

        Raises LookupError where only LMDB can tell.
        """
        cdef Lookup lookup
        cdef int found
        lookup.name, lookup.name_size = PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
        lookup.sound = NULL
        with nogil:
            found = look_up(&self.tree, &lookup)
        if found == UNSURE:
            raise LookupError("something is unusual about this entry")
        return PyMemoryView_FromMemory(<char *>lookup.data, lookup.size, PyBUF_READ) if found == FOUND else None
