# -- answers about nodes: names, attributes, directories --------------------------------------
#
# Role: answers everything but reads from the tables of a view, by arithmetic.  The kernel may keep all of it for ever: it
# is told when a swap, or the end of a name that lingers (lingering.pxi), makes it untrue.
#
# Threads: any, without the GIL, with the view entered (see views.pxi); there are no locks.  A lookup of a name while
# some linger takes the GIL.


cdef void _fill_attributes(const Tables *tables, uint64_t row, fuse_attr *attributes) noexcept nogil:
    cdef const NodeRow *node = &tables.nodes[row]
    attributes.ino = row + 1
    attributes.size = node.size
    attributes.blocks = (node.size + 511) // 512
    attributes.atime = attributes.mtime = <uint64_t>node.mtime
    attributes.ctime = <uint64_t>node.ctime
    attributes.mode = node.mode
    attributes.nlink = node.nlink
    attributes.uid = node.uid
    attributes.gid = node.gid
    attributes.rdev = node.rdev
    attributes.blksize = 4096


cdef void _fill_entry(const Tables *tables, uint64_t row, fuse_entry_out *entry) noexcept nogil:
    entry.nodeid = row + 1
    entry.attr_valid = FOREVER_SECONDS
    _fill_attributes(tables, row, &entry.attr)


cdef void answer_lookup(Channel channel, Lingering lingering, const Tables *tables, uint64_t row, uint64_t unique,
                        const char *name) noexcept nogil:
    cdef fuse_entry_out answer
    cdef size_t length = strlen(name)
    cdef int64_t found = -1
    if not is_directory(tables, row):
        channel.error(unique, ENOTDIR)
        return
    if tables.nodes[row].count == MISSING:
        channel.error(unique, EIO)
        return
    if length > 255:
        channel.error(unique, ENAMETOOLONG)
        return
    memset(&answer, 0, sizeof(answer))
    answer.entry_valid = FOREVER_SECONDS
    if lingering.are_in(row):
        found = lingering.find_for_worker(row, name)
    if found < 0:
        if length == 1 and name[0] == c'.':
            found = row
        elif length == 2 and name[0] == c'.' and name[1] == c'.':
            found = tables.nodes[row].parent
        else:
            found = find_child(tables, row, name, length)
    if found >= 0:
        _fill_entry(tables, found, &answer)
    channel.data(unique, &answer, sizeof(answer))  # node id 0: the kernel remembers that there is no such name


cdef void answer_getattr(Channel channel, const Tables *tables, uint64_t row, uint64_t unique) noexcept nogil:
    cdef fuse_attr_out answer
    memset(&answer, 0, sizeof(answer))
    answer.attr_valid = FOREVER_SECONDS
    _fill_attributes(tables, row, &answer.attr)
    channel.data(unique, &answer, sizeof(answer))


cdef void answer_readlink(Channel channel, const Tables *tables, uint64_t row, uint64_t unique) noexcept nogil:
    cdef const NodeRow *node = &tables.nodes[row]
    cdef char target[4095]
    cdef uint32_t length = min(<uint32_t>sizeof(target), node.count)
    if node.mode & TYPE_MASK != TYPE_LINK:
        channel.error(unique, EINVAL)
        return
    # copied before `send` looks for faults: sent from the map itself, it could become zeros after that
    memcpy(target, tables.names + node.first, length)
    channel.data(unique, target, length)


cdef void answer_open(Channel channel, uint64_t unique, bint directory) noexcept nogil:
    cdef fuse_open_out answer
    if channel.opens_itself:
        channel.error(unique, ENOSYS)  # from now on the kernel opens by itself, and keeps its caches
        return
    memset(&answer, 0, sizeof(answer))
    answer.open_flags = FOPEN_KEEP_CACHE | (FOPEN_CACHE_DIR if directory else 0)
    channel.data(unique, &answer, sizeof(answer))


cdef void answer_listxattr(Channel channel, uint64_t unique, uint32_t size) noexcept nogil:
    cdef fuse_getxattr_out answer
    if size:
        channel.error(unique, 0)  # an empty list
        return
    memset(&answer, 0, sizeof(answer))
    channel.data(unique, &answer, sizeof(answer))


cdef void answer_statfs(Channel channel, const Tables *tables, uint64_t total_size, uint64_t unique) noexcept nogil:
    cdef fuse_statfs_out answer
    memset(&answer, 0, sizeof(answer))
    answer.st.bsize = answer.st.frsize = 4096
    answer.st.blocks = (total_size + 4095) // 4096
    answer.st.files = tables.node_count
    answer.st.namelen = 255
    channel.data(unique, &answer, sizeof(answer))


cdef void answer_lseek(Channel channel, const Tables *tables, uint64_t row, uint64_t unique,
                       const fuse_lseek_in *asked) noexcept nogil:
    """A file is all data: the only hole is the one at its end."""
    cdef fuse_lseek_out answer
    cdef uint64_t size = tables.nodes[row].size
    if asked.whence not in (SEEK_DATA, SEEK_HOLE):
        channel.error(unique, EINVAL)
    elif asked.offset >= size:
        channel.error(unique, ENXIO)
    else:
        answer.offset = asked.offset if asked.whence == SEEK_DATA else size
        channel.data(unique, &answer, sizeof(answer))


cdef void answer_readdir(Channel channel, Lingering lingering, const Tables *tables, uint64_t row, Request *request,
                         char *listing) noexcept nogil:
    """Entries from the offset on, as many as fit, made in `listing`; 0 and 1 are `.` and `..`.

    The kernel learns no nodes from the listing of a directory in which names linger: it has to ask for each name.
    """
    cdef fuse_read_in *asked = <fuse_read_in *>request.body
    cdef bint plus = request.header.opcode == FUSE_READDIRPLUS
    cdef bint told = plus and not lingering.are_in(row)
    cdef const NodeRow *node = &tables.nodes[row]
    cdef const ChildRow *child
    cdef fuse_dirent *entry
    cdef uint64_t position = asked.offset
    cdef uint64_t target
    cdef size_t room = min(<uint32_t>LISTING_SIZE, asked.size)
    cdef size_t used = 0, need
    cdef size_t head = sizeof(fuse_direntplus) if plus else sizeof(fuse_dirent)
    cdef const char *name
    cdef uint32_t length, kind
    if node.mode & TYPE_MASK != TYPE_DIR:
        channel.error(request.header.unique, ENOTDIR)
        return
    if node.count == MISSING:
        channel.error(request.header.unique, EIO)
        return
    while position < <uint64_t>node.count + 2:
        if position < 2:
            target = row if position == 0 else node.parent
            name, length, kind = "..", <uint32_t>position + 1, TYPE_DIR
        else:
            child = &tables.children[node.first + position - 2]
            target, name, length, kind = child.node, tables.names + child.name, child.name_length, child.kind
        need = (head + length + 7) & ~<size_t>7
        if used + need > room:
            break
        memset(listing + used, 0, need)
        entry = <fuse_dirent *>(listing + used)
        if plus:
            if position >= 2 and told:
                _fill_entry(tables, target, <fuse_entry_out *>entry)
                (<fuse_entry_out *>entry).entry_valid = FOREVER_SECONDS
            entry = &(<fuse_direntplus *>entry).dirent
        entry.ino = target + 1
        entry.off = position + 1
        entry.namelen = length
        entry.type = kind >> 12
        memcpy(listing + used + head, name, length)
        used += need
        position += 1
    channel.data(request.header.unique, listing, used)
