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


cdef int64_t _nanoseconds(int64_t seconds) noexcept:
    """A time as the binding wants it; the nearest that it can hold."""
    return min(max(seconds, <int64_t>-9223372036), <int64_t>9223372036) * 1000000000


cdef object _hole(uint64_t row):
    return ChunkError(f"the flist has no chunk for the end of a file (node {row + 1})",
                      hint="the flist is at fault; a sound writer has to make it anew")


cdef object _unreadable():
    return FlistCorruptError("the disk cannot give a page of the compiled index", hint="look at the disk")


cdef object _wrong_size(uint32_t number, size, uint64_t expected):
    return ChunkCorruptError(f"chunk {number} of the flist has {size} bytes where a file says {expected}")


cdef class Operations:
    """A read-only file system over an `IndexMap`, in the shape that llfuse expects.

    Node ids are rows of the index plus one; handles are node ids, so open and release keep nothing.
    llfuse calls every method under its global lock, from several threads; only `read` lets go of it, while
    it waits for `fetch(chunk number, IndexMap)`, which returns the plain bytes or raises.

    `swap` replaces the index by one whose rows and chunk numbers are a superset of the old one's.
    """

    cdef IndexMap index
    cdef CachedChunks chunks
    cdef Touches touches
    cdef readonly Lingering lingering
    cdef object fetch
    cdef object report
    cdef object binding
    cdef object Entry
    cdef object Error
    cdef object lock
    cdef uint64_t total_size
    cdef uint64_t answered  # all of these under the binding's lock
    cdef uint64_t answered_bytes
    cdef uint64_t waited
    cdef uint64_t waiting
    cdef uint64_t failed

    def __cinit__(self, IndexMap index not None, *, cache, fetch, report, binding,
                  uint64_t total_size=0, observer=None):
        self.chunks = CachedChunks(cache)
        self.touches = Touches(observer)
        self.lingering = Lingering()
        self.fetch = fetch
        self.report = report
        self.binding = binding
        self.Entry = binding.EntryAttributes
        self.Error = binding.FUSEError
        self.lock = binding.lock
        self.swap(index, total_size)

    def swap(self, IndexMap index not None, uint64_t total_size=0, replaced=()):
        """Serve `index` from now on.  Call it with the binding's lock held, or before the mount.

        `replaced`: ((row of the directory, name), old row) of names that now lead elsewhere or nowhere.
        """
        self.chunks.grow(index.tables.chunk_count)
        self.touches.grow(index.tables.chunk_count)
        self.lingering.reserve(index.tables.node_count)
        self.lingering.swap(index.tables.node_count, replaced)
        self.index = index
        self.total_size = total_size

    cdef object _error(self, int number):
        """The error for the kernel: EIO whatever was found, where a page of the index could not be had."""
        return self.Error(number if self.index.is_whole() else EIO)

    cdef object _sound(self, answer):
        """`answer`, unless it may come from a page of the index that could not be had: every handler ends here."""
        if not self.index.is_whole():
            self.report(_unreadable())
            raise self._error(EIO)
        return answer

    cdef int64_t _row(self, uint64_t inode) except -1:
        """The row of a node: every handler begins here, and tries pages again that could not be had."""
        if not self.index.is_whole():
            self.index.guard.restore()
        if inode == 0 or inode > self.index.tables.node_count:
            raise self._error(ENOENT)
        return inode - 1

    cdef object _entry(self, uint64_t row):
        cdef const NodeRow *node = &self.index.tables.nodes[row]
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
        entry.st_atime_ns = _nanoseconds(node.mtime)
        entry.st_mtime_ns = _nanoseconds(node.mtime)
        entry.st_ctime_ns = _nanoseconds(node.ctime)
        return self._sound(entry)

    def init(self):
        """Called when the mount is up."""

    def destroy(self):
        """Called when the mount is gone."""

    def lookup(self, uint64_t parent, bytes name not None, ctx):
        cdef int64_t row = self._row(parent)
        cdef int64_t found
        if not is_directory(&self.index.tables, row):
            raise self._error(ENOTDIR)
        if self.index.tables.nodes[row].count == MISSING:
            raise self._error(EIO)
        if name == b".":
            return self._entry(row)
        if name == b"..":
            return self._entry(self.index.tables.nodes[row].parent)
        if PyBytes_GET_SIZE(name) > 255:  # newer kernels pass on what they used to refuse
            raise self._error(ENAMETOOLONG)
        found = self.lingering.find(row, name)
        if found >= 0:
            return self._entry(found)
        found = find_child(&self.index.tables, row, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if found >= 0:
            return self._entry(found)
        negative = self.Entry()  # node id 0: the kernel remembers that there is no such name
        negative.st_ino = 0
        negative.entry_timeout = FOREVER
        return self._sound(negative)

    def forget(self, inodes):
        """Nothing is kept about what the kernel knows."""

    def getattr(self, uint64_t inode, ctx):
        return self._entry(self._row(inode))

    def readlink(self, uint64_t inode, ctx):
        cdef const NodeRow *node = &self.index.tables.nodes[self._row(inode)]
        if node.mode & TYPE_MASK != TYPE_LINK:
            raise self._error(EINVAL)
        return self._sound(self.index.tables.names[node.first:node.first + node.count])

    def opendir(self, uint64_t inode, ctx):
        cdef int64_t row = self._row(inode)
        if not is_directory(&self.index.tables, row):
            raise self._error(ENOTDIR)
        if self.index.tables.nodes[row].count == MISSING:
            raise self._error(EIO)
        return self._sound(inode)

    def readdir(self, uint64_t handle, uint64_t offset):
        """Entries from `offset` on; 0 and 1 are `.` and `..`."""
        cdef IndexMap index = self.index
        cdef int64_t row = self._row(handle)
        cdef const NodeRow *node = &index.tables.nodes[row]
        cdef const ChildRow *child
        cdef uint64_t count = 0 if node.count == MISSING else node.count
        entry = self.Entry()
        for position in range(offset, count + 2):
            if position < 2:
                entry.st_ino = (row if position == 0 else node.parent) + 1
                entry.st_mode = TYPE_DIR
                name = b"." if position == 0 else b".."
            else:
                child = &index.tables.children[node.first + <uint64_t>position - 2]
                entry.st_ino = <uint64_t>child.node + 1
                entry.st_mode = child.kind
                name = index.tables.names[child.name:child.name + child.name_length]
            self._sound(None)
            yield name, entry, position + 1
        self._sound(None)

    def releasedir(self, handle):
        """Handles keep nothing."""

    def fsyncdir(self, handle, datasync):
        """Nothing is ever dirty."""

    def open(self, uint64_t inode, flags, ctx):
        cdef int64_t row = self._row(inode)
        if flags & 0o3:  # anything but O_RDONLY
            raise self._error(EROFS)
        if is_directory(&self.index.tables, row):
            raise self._error(EISDIR)
        return self._sound(inode)

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
        cdef const NodeRow *node = &index.tables.nodes[row]
        cdef uint32_t faults = index.faults()
        cdef bint waited = False
        if node.mode & TYPE_MASK != TYPE_FILE:
            raise self._error(EISDIR if is_directory(&index.tables, row) else EINVAL)
        if offset >= node.size or size == 0:
            return self._sound(b"")
        size = min(size, node.size - offset)
        answer = self._read(index, row, node[0], offset, size, &waited)
        if index.faults() != faults:  # counted, since others try pages again while this one waits for a store
            self._fail(_unreadable())
        self.answered += 1
        self.answered_bytes += size
        return answer

    def reads(self) -> tuple:
        """(answered, their bytes, that had to wait, that wait now, that failed), of all reads so far."""
        return self.answered, self.answered_bytes, self.waited, self.waiting, self.failed

    cdef object _read(self, IndexMap index, uint64_t row, NodeRow node, uint64_t offset, uint64_t size,
                      bint *waited):
        cdef uint64_t first, last
        if node.block_size == 0:
            self._fail(_hole(row))
        first = offset // node.block_size
        last = (offset + size - 1) // node.block_size
        if last >= node.count:
            self._fail(_hole(row))
        if first == last:
            return self._piece(index, row, &node, first, offset - first * node.block_size, size, waited)
        return self._assemble(index, row, &node, offset, size, first, last, waited)

    cdef _fail(self, reason):
        """End a read."""
        self.failed += 1
        if reason is not None:
            self.report(reason)
        raise self._error(EIO)

    cdef bytes _assemble(self, IndexMap index, uint64_t row, const NodeRow *node, uint64_t offset, uint64_t size,
                         uint64_t first, uint64_t last, bint *waited):
        """A read across chunk borders, copied together."""
        cdef uint64_t position, start, length, done = 0
        cdef uint64_t expected
        cdef uint32_t number
        cdef bytes plain
        out = PyBytes_FromStringAndSize(NULL, size)
        for position in range(first, last + 1):
            start = offset + done - position * node.block_size
            length = min(node.block_size - start, size - done)
            number = index.tables.refs[node.first + position]
            expected = min(<uint64_t>node.block_size, node.size - position * node.block_size)
            plain = self._copied(index, row, position, number, expected, waited)
            memcpy(PyBytes_AS_STRING(out) + done, PyBytes_AS_STRING(plain) + start, length)
            done += length
        return out

    cdef bytes _copied(self, IndexMap index, uint64_t row, uint64_t position, uint32_t number, uint64_t expected,
                       bint *waited):
        """All bytes of a chunk, copied if cached, else fetched."""
        cdef bytes plain = None
        if self.chunks.cache is not None:
            with self.chunks.cache.snapshot() as snapshot:
                plain = self.chunks.copy(snapshot, index, number, expected)
        self.touches.tell([], &index.tables, row, position, position, (number,) if plain is None else ())
        return plain if plain is not None else self._fetched(index, number, expected, waited)

    cdef object _piece(self, IndexMap index, uint64_t row, const NodeRow *node, uint64_t position, uint64_t start,
                       uint64_t length, bint *waited):
        """`length` bytes from `start` of the chunk at `position` of a file: mapped if cached, else fetched."""
        cdef uint32_t number = index.tables.refs[node.first + position]
        cdef uint64_t expected = min(<uint64_t>node.block_size, node.size - position * node.block_size)
        piece = self._cached(index, number, expected, start, length)
        self.touches.tell([], &index.tables, row, position, position, (number,) if piece is None else ())
        if piece is not None:
            return piece
        return memoryview(self._fetched(index, number, expected, waited))[start:start + length]

    cdef bytes _fetched(self, IndexMap index, uint32_t number, uint64_t expected, bint *waited):
        """The bytes of a chunk from the store.  Others are served while this waits."""
        cdef bytes plain
        self.waited += not waited[0]  # a read counts once, however many chunks it waits for
        waited[0] = True
        self.waiting += 1
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
            self.waiting -= 1
        if plain is None:
            self._fail(None)
        if <uint64_t>len(plain) != expected:
            self._fail(_wrong_size(number, len(plain), expected))
        return plain

    cdef object _cached(self, IndexMap index, uint32_t number, uint64_t expected, uint64_t start, uint64_t length):
        cdef const char *data = NULL
        cdef Reply reply
        if self.chunks.cache is None:
            return None
        snapshot = self.chunks.cache.snapshot()
        try:
            found = self.chunks.find(snapshot, index, number, expected, &data)
            if found is not None and not snapshot.is_readable(found[start:start + length]):
                self.chunks.checked[number] = 0  # llfuse does not tell that the kernel could not read an answer
                found = self.chunks.find(snapshot, index, number, expected, &data)
        except BaseException:
            snapshot.release()
            raise
        if found is None:
            snapshot.release()
            return None
        reply = Reply.__new__(Reply)
        reply.snapshot = snapshot
        reply.view = found
        reply.data = data + start
        reply.size = length
        return reply

    def statfs(self, ctx):
        stats = self.binding.StatvfsData()
        stats.f_bsize = stats.f_frsize = 4096
        stats.f_blocks = (self.total_size + 4095) // 4096
        stats.f_bfree = stats.f_bavail = 0
        stats.f_files = self.index.tables.node_count
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
