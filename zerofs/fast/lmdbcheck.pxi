# -- whether the pages of LMDB's trees fit together ------------------------------------------
#
# The work of `zerofs/cache/trees.py`, which says what for and when.  What the pages look like is in lmdb_pages.h.
#
# Nothing in the file is trusted: each number that leads somewhere is compared with how many pages or bytes there are, the
# way down is as long as the tree says that it is deep, and no page is gone to twice, so the walk ends.  Pages are read
# from the file into memory of this walk, one for each level, so names above a page stay where they are while it is
# looked at.  Each function returns OK, MISFIT with what does not fit in `Fitting.misfit`, FAILED with errno, or LEFT where
# too much would have to come from the disk.

cdef extern from *:
    """
    #include <sys/uio.h>
    #include <unistd.h>

    static ssize_t zerofs_read_from_memory(int file, void *buffer, size_t size, off_t offset)
    {
    #ifdef RWF_NOWAIT
        struct iovec piece = {.iov_base = buffer, .iov_len = size};
        return preadv2(file, &piece, 1, offset, RWF_NOWAIT);
    #else
        return -1;
    #endif
    }
    """
    ssize_t pread(int file, void *buffer, size_t size, int64_t offset) nogil
    ssize_t zerofs_read_from_memory(int file, void *buffer, size_t size, int64_t offset) nogil

cdef enum:
    OK = 0
    LEFT = 1
    MISFIT = -1
    FAILED = -2
    CHECKED_VALUES = 1024  # entries with pages of their own, of which the header is looked at
    LIST_PIECE = 2048  # numbers of free pages that are read at once
    MOST_DATABASES = 16

cdef struct Name:
    const char *start
    size_t size
    bint is_last  # behind every name

cdef struct Fitting:
    int file
    uint64_t page_size
    uint64_t page_count
    uint64_t transaction
    uint64_t *taken  # a bit for each page: it is part of something
    char *levels  # a page of memory for each level
    const char *misfit
    zerofs_lmdb_tree *found  # in the main tree
    uint32_t found_count
    uint32_t values
    uint64_t awaited  # pages of the trees that may yet come from the disk

# What the walk of a tree has counted so far, and who the tree is.
cdef struct Walked:
    const zerofs_lmdb_tree *tree
    bint is_main, is_free
    uint64_t branches, leaves, overflows, entries

cdef inline int _misfit(Fitting *fitting, const char *what) noexcept nogil:
    fitting.misfit = what
    return MISFIT


cdef int _take(Fitting *fitting, uint64_t first, uint64_t count) noexcept nogil:
    """Pages that are part of nothing else."""
    cdef uint64_t end, bits
    cdef uint64_t low, many
    if first < 2 or first >= fitting.page_count or count > fitting.page_count - first:
        return _misfit(fitting, "the number of a page")
    end = first + count
    while first < end:
        low = first % 64
        many = min(<uint64_t>64 - low, end - first)
        bits = (~<uint64_t>0 >> (64 - many)) << low
        if fitting.taken[first // 64] & bits:
            return _misfit(fitting, "a page is part of two things")
        fitting.taken[first // 64] |= bits
        first += many
    return OK


cdef int _read(Fitting *fitting, void *buffer, uint64_t size, uint64_t offset) noexcept nogil:
    """All of `size` bytes."""
    cdef uint64_t done = 0
    cdef ssize_t got
    while done < size:
        got = pread(fitting.file, <char *>buffer + done, size - done, <int64_t>(offset + done))
        if got == 0:
            return _misfit(fitting, "the file is too short")
        if got > 0:
            done += <uint64_t>got
        elif errno != EINTR:
            return FAILED
    return OK


cdef int _read_page(Fitting *fitting, const Walked *walked, char *data, uint64_t number) noexcept nogil:
    cdef uint64_t offset = number * fitting.page_size
    if not walked.is_main and not walked.is_free:
        if zerofs_read_from_memory(fitting.file, data, fitting.page_size, <int64_t>offset) == <ssize_t>fitting.page_size:
            return OK
        if fitting.awaited == 0:
            return LEFT
        fitting.awaited -= 1
    return _read(fitting, data, fitting.page_size, offset)


cdef inline uint64_t _number(const char *name) noexcept nogil:
    cdef uint64_t number
    memcpy(&number, name, 8)
    return number


cdef bint _is_below(const Walked *walked, const Name *one, const Name *two) noexcept nogil:
    """Whether `one` stands before `two`: by number among the lists of free pages, else byte by byte."""
    cdef int order
    if one.is_last or two.is_last:
        return two.is_last and not one.is_last
    if walked.is_free and one.size == two.size == 8:
        return _number(one.start) < _number(two.start)
    order = 0 if not one.size or not two.size else memcmp(one.start, two.start, min(one.size, two.size))
    return order < 0 or (order == 0 and one.size < two.size)


cdef int _check_value(Fitting *fitting, Walked *walked, const char *value, uint64_t size) noexcept nogil:
    """The pages of an entry's own."""
    cdef uint64_t first = _number(value)
    cdef uint64_t count = (ZEROFS_LMDB_HEADER - 1 + size) // fitting.page_size + 1
    cdef uint64_t offset = first * fitting.page_size
    cdef zerofs_lmdb_page header
    cdef bint is_known = False
    cdef int got
    if first < 2 or first >= fitting.page_count:
        return _misfit(fitting, "the number of a page")
    if walked.is_free:
        got = _read(fitting, &header, ZEROFS_LMDB_HEADER, offset)
        if got != OK:
            return got
        is_known = True
    elif fitting.values < CHECKED_VALUES:
        is_known = zerofs_read_from_memory(fitting.file, &header, ZEROFS_LMDB_HEADER, <int64_t>offset) \
            == ZEROFS_LMDB_HEADER
        fitting.values += 1
    if is_known:
        # LMDB shortens a list of free pages where it lies, and leaves it the pages that it had.
        if header.number != first or header.kind != ZEROFS_LMDB_OVERFLOW or header.pages < count or (
                header.pages > count and not walked.is_free):
            return _misfit(fitting, "the pages of a value")
        count = header.pages
    walked.overflows += count
    return _take(fitting, first, count)


cdef int _check_list(Fitting *fitting, const Name *name, const char *value, bint is_apart, uint64_t size) noexcept nogil:
    """A list of free pages, the largest number first, behind how many they are."""
    cdef uint64_t numbers[LIST_PIECE]
    cdef uint64_t count, at = 0, before = fitting.page_count, offset = 0
    cdef uint64_t here, i
    cdef int got
    if name.size != 8 or size < 8 or size % 8:
        return _misfit(fitting, "a list of free pages")
    if size // 8 > fitting.page_count + 1:
        return _misfit(fitting, "how many pages are free")
    if _number(name.start) > fitting.transaction:
        return _misfit(fitting, "the transaction of free pages")
    if is_apart:
        offset = _number(value) * fitting.page_size + ZEROFS_LMDB_HEADER
    count = 0
    while at <= count:  # the first number is theirs
        here = min(<uint64_t>LIST_PIECE, size // 8 - at)
        if is_apart:
            got = _read(fitting, numbers, 8 * here, offset + 8 * at)
            if got != OK:
                return got
        else:
            memcpy(numbers, value + 8 * at, 8 * here)
        if at == 0:
            count = numbers[0]
            if count > size // 8 - 1:
                return _misfit(fitting, "how many pages are free")
        for i in range(1 if at == 0 else 0, min(here, count + 1 - at)):
            if numbers[i] >= before:
                return _misfit(fitting, "the order of free pages")
            before = numbers[i]
            got = _take(fitting, before, 1)
            if got != OK:
                return got
        at += here
    return OK


cdef int _check_entry(Fitting *fitting, Walked *walked, const zerofs_lmdb_node *node, const Name *name,
                      const char *value, uint64_t size) noexcept nogil:
    cdef bint is_apart = node.flags == ZEROFS_LMDB_BIG
    cdef int got
    walked.entries += 1
    if walked.is_main:
        if node.flags != ZEROFS_LMDB_TREE or size != sizeof(zerofs_lmdb_tree):
            return _misfit(fitting, "the value of a database")
        if fitting.found_count == MOST_DATABASES:
            return _misfit(fitting, "the number of databases")
        memcpy(&fitting.found[fitting.found_count], value, sizeof(zerofs_lmdb_tree))
        fitting.found_count += 1
        return OK
    if node.flags != 0 and not is_apart:
        return _misfit(fitting, "the kind of an entry")
    if is_apart:
        got = _check_value(fitting, walked, value, size)
        if got != OK:
            return got
    return _check_list(fitting, name, value, is_apart, size) if walked.is_free else OK


cdef int _check_page(Fitting *fitting, Walked *walked, uint64_t number, uint16_t depth, const Name *low,
                     const Name *high) noexcept nogil:
    """A page and all below it, whose names are not below `low`, and below `high`."""
    cdef char *data = fitting.levels + depth * fitting.page_size
    cdef const zerofs_lmdb_page *page = <const zerofs_lmdb_page *>data
    cdef const uint16_t *offsets = <const uint16_t *>(data + ZEROFS_LMDB_HEADER)
    cdef const zerofs_lmdb_node *node
    cdef bint is_leaf = depth == 1
    cdef Name name, before
    cdef uint64_t total = 0, size, here, begin
    cdef uint64_t below = 0
    cdef uint32_t i, count, first = 0 if is_leaf else 1  # the name of a branch's first node counts for nothing
    cdef int got = _take(fitting, number, 1)
    if got != OK:
        return got
    got = _read_page(fitting, walked, data, number)
    if got != OK:
        return got
    if page.number != number or page.kind != (ZEROFS_LMDB_LEAF if is_leaf else ZEROFS_LMDB_BRANCH):
        return _misfit(fitting, "what a page is")
    if page.lower % 2 or page.lower < ZEROFS_LMDB_HEADER + (2 if is_leaf else 4):
        return _misfit(fitting, "the number of nodes")
    if page.lower > page.upper or page.upper > fitting.page_size:
        return _misfit(fitting, "the bounds of nodes")
    count = (page.lower - ZEROFS_LMDB_HEADER) // 2
    if is_leaf:
        walked.leaves += 1
    else:
        walked.branches += 1
    if walked.leaves > walked.tree.leaves or walked.branches > walked.tree.branches:
        return _misfit(fitting, "what a tree counts")
    before = low[0]
    for i in range(count):
        if offsets[i] < page.upper or offsets[i] % 2 or offsets[i] + sizeof(zerofs_lmdb_node) > fitting.page_size:
            return _misfit(fitting, "the place of a node")
        node = <const zerofs_lmdb_node *>(data + offsets[i])
        begin = offsets[i] + sizeof(zerofs_lmdb_node) + node.name_size
        size = node.low | <uint64_t>node.high << 16
        here = 0 if not is_leaf else 8 if node.flags == ZEROFS_LMDB_BIG else size
        if begin > fitting.page_size or here > fitting.page_size - begin:
            return _misfit(fitting, "the size of a node")
        total += (sizeof(zerofs_lmdb_node) + node.name_size + here + 1) // 2 * 2
        name.start, name.size, name.is_last = data + offsets[i] + sizeof(zerofs_lmdb_node), node.name_size, False
        if i >= first:
            if not _is_below(walked, &before, &name) and (i > first or _is_below(walked, &name, &before)):
                return _misfit(fitting, "the order of names")
            if not _is_below(walked, &name, high):
                return _misfit(fitting, "the names below a page")
        if is_leaf:
            got = _check_entry(fitting, walked, node, &name, data + begin, size)
        elif i > 0:  # between the name of the node before this one, and this one's
            got = _check_page(fitting, walked, below, depth - 1, &before, &name)
        if got != OK:
            return got
        below = size | <uint64_t>node.flags << 32
        if i >= first:
            before = name
    if total != fitting.page_size - page.upper:
        return _misfit(fitting, "the room of nodes")
    return OK if is_leaf else _check_page(fitting, walked, below, depth - 1, &before, high)


cdef int _check_tree(Fitting *fitting, const zerofs_lmdb_tree *tree, bint is_main, bint is_free) noexcept nogil:
    cdef Walked walked
    cdef Name low, high
    cdef int got
    memset(&walked, 0, sizeof(walked))
    walked.tree, walked.is_main, walked.is_free = tree, is_main, is_free
    low.start = high.start = NULL
    low.size = high.size = 0
    low.is_last, high.is_last = False, True
    if tree.depth > ZEROFS_LMDB_DEEPEST:
        return _misfit(fitting, "the depth of a tree")
    if tree.root == ZEROFS_LMDB_NO_PAGE:
        return OK if tree.depth == 0 and tree.entries == 0 else _misfit(fitting, "an empty tree")
    if tree.depth == 0:
        return _misfit(fitting, "the depth of a tree")
    got = _check_page(fitting, &walked, tree.root, tree.depth, &low, &high)
    if got != OK:
        return got
    if (walked.branches != tree.branches or walked.leaves != tree.leaves or walked.overflows != tree.overflows
            or walked.entries != tree.entries):
        return _misfit(fitting, "what a tree counts")
    return OK


cdef int _check_trees(Fitting *fitting, const zerofs_lmdb_meta *meta, uint64_t most) noexcept nogil:
    cdef uint64_t pages = 0
    cdef uint32_t i
    cdef int got = _check_tree(fitting, &meta.main, True, False)
    if got != OK:
        return got
    for i in range(fitting.found_count):
        pages += min(most + 1, fitting.found[i].leaves) + min(most + 1, fitting.found[i].branches)
    if pages <= most:
        for i in range(fitting.found_count):
            got = _check_tree(fitting, &fitting.found[i], False, False)
            if got == LEFT:
                break
            if got != OK:
                return got
    return _check_tree(fitting, &meta.free, False, True)


cdef int _last_meta(Fitting *fitting, uint64_t size, zerofs_lmdb_meta *meta) noexcept nogil:
    """What the last transaction wrote; sets the numbers of `fitting`."""
    cdef zerofs_lmdb_meta both[2]
    cdef uint64_t offset = 0
    cdef int i, got
    for i in range(2):
        got = _read(fitting, &both[i], sizeof(zerofs_lmdb_meta), offset + ZEROFS_LMDB_HEADER)
        if got != OK:
            return got
        if both[i].magic != ZEROFS_LMDB_MAGIC or both[i].version != ZEROFS_LMDB_VERSION:
            return _misfit(fitting, "a meta page")
        offset = both[0].free.page_size
        if offset & (offset - 1) or not ZEROFS_LMDB_SMALLEST_PAGE <= offset <= ZEROFS_LMDB_LARGEST_PAGE:
            return _misfit(fitting, "the size of a page")
    meta[0] = both[1 if both[1].transaction > both[0].transaction else 0]
    fitting.page_size = offset
    fitting.transaction = meta.transaction
    fitting.page_count = meta.last_page + 1
    if fitting.page_count < 2 or fitting.page_count > 2 + size // offset + 65536:
        return _misfit(fitting, "the number of pages")
    return OK


def find_misfit_in(int file, uint64_t size, uint64_t most_pages, uint64_t most_awaited) -> str | None:
    """What does not fit together in LMDB's file `file` of `size` bytes, of which nobody writes; None where all does.

    Trees of more than `most_pages` (below 2**32) pages together are left out, but for the list of free pages and the tree that leads to
    all others; so is what follows after `most_awaited` of their pages had to come from the disk.  Raises OSError where a page cannot be had.  The GIL is released.
    """
    cdef Fitting fitting
    cdef zerofs_lmdb_meta meta
    cdef zerofs_lmdb_tree found[MOST_DATABASES]
    cdef int got, number = 0
    if not ZEROFS_LMDB_FITS:
        return None
    memset(&fitting, 0, sizeof(fitting))
    fitting.file, fitting.found, fitting.awaited = file, found, most_awaited
    with nogil:
        got = _last_meta(&fitting, size, &meta)
        if got == OK:
            fitting.taken = <uint64_t *>calloc(fitting.page_count // 64 + 1, 8)
            fitting.levels = <char *>malloc((ZEROFS_LMDB_DEEPEST + 1) * fitting.page_size)
            if fitting.taken == NULL or fitting.levels == NULL:
                got = FAILED
            else:
                got = _check_trees(&fitting, &meta, most_pages)
        if got == FAILED:
            number = errno
        free(fitting.taken)
        free(fitting.levels)
    if got == FAILED:
        raise OSError(number, os.strerror(number))
    return None if got == OK else (<bytes>fitting.misfit).decode()
