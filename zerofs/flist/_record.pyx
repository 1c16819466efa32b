# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reads the Cap'n Proto records of directories and ACIs.

Role: the decoder of the RocksDB and SQLite generations, used while a flist is compiled, never while it
is read.  It knows the encoding (stream framing, segments, struct, list, far and double-far pointers) and
the fields of these records; what a value means is decided in `zerofs.flist.record`.

Records come from outside, so every pointer is followed in one place (`_claim`), which checks that what it
leads to lies within its segment, and takes the words from a budget: pointers may overlap, and without it
a small record could unfold into a large one.  What is made of a record is bounded likewise (`_make`): lists of
nothing cost no words.  The depth of a record is that of its schema, six structs and lists; nothing here calls
itself.  Fields beyond the end of a struct are zero, as the encoding wants for records of older writers; lists
of structs may be lists of anything but bits.  Words are little-endian and may lie anywhere, so they are copied
out.

No thread of its own, no locks; the GIL is held, objects being made all the way.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerofs.flist.model import BLOCK_UNIT, CHUNK_SIZE, DIRECTORY_SIZE, Attributes, ChunkRef, Entry, Kind

# -- the encoding --------------------------------------------------------------------------

cdef struct Segment:  # in words; its start is from the start of the record
    uint32_t start
    uint32_t words

cdef struct Message:
    const uint8_t *record
    Segment *segments
    uint64_t count
    uint64_t budget  # words that may still be followed
    uint64_t objects  # entries and chunks that may still be made: each takes more memory than a word
    const char *fault  # what is wrong, once something is

cdef struct Target:
    bint none  # there is no target
    uint64_t pointer  # the word that says what it is
    uint64_t segment
    int64_t start  # in words from the start of the segment; anything, until it is claimed

cdef struct Struct:
    const uint8_t *data
    uint64_t data_size  # bytes
    uint64_t segment
    uint64_t pointers  # the first one, in words from the start of the segment
    uint64_t pointer_count

cdef struct Structs:
    Struct first
    uint64_t count
    uint64_t step  # bytes from one to the next

cdef struct Blob:
    const uint8_t *start
    uint64_t size  # bytes

cdef enum:  # kinds of pointers
    STRUCT = 0
    LIST = 1
    FAR = 2

cdef enum:  # sizes of the elements of a list
    BIT = 1
    BYTE = 2
    POINTER = 6
    COMPOSITE = 7


cdef inline uint64_t _word(const uint8_t *at) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, at, 8)
    return word


cdef inline bint _fail(Message *message, const char *fault) noexcept nogil:
    message.fault = fault
    return False


cdef bint _spend(Message *message, uint64_t words) noexcept nogil:
    if words > message.budget:
        return _fail(message, b"it unfolds into more than it holds")
    message.budget -= words
    return True


cdef bint _make(Message *message, uint64_t count) noexcept nogil:
    if count > message.objects:
        return _fail(message, b"it names more than it can hold")
    message.objects -= count
    return True


cdef inline const uint8_t *_at(const Message *message, uint64_t segment, uint64_t word) noexcept nogil:
    return message.record + (message.segments[segment].start + word) * 8


cdef const uint8_t *_claim(Message *message, uint64_t segment, int64_t start, uint64_t words) noexcept nogil:
    """The `words` from `start` of a segment, or NULL where they are not all within it."""
    cdef const Segment *held
    if segment >= message.count:
        message.fault = b"a pointer leads into a segment that it does not have"
        return NULL
    held = &message.segments[segment]
    if words == 0:
        return message.record  # nothing of it will be read
    if start < 0 or <uint64_t>start > held.words or words > held.words - <uint64_t>start:
        message.fault = b"a pointer leads out of its segment"
        return NULL
    if not _spend(message, words):
        return NULL
    return _at(message, segment, start)


cdef bint _follow(Message *message, uint64_t segment, uint64_t at, Target *found) noexcept nogil:
    """Where the pointer at word `at`, which is claimed, leads; through far pointers."""
    cdef uint64_t pointer = _word(_at(message, segment, at))
    cdef uint64_t far
    cdef bint double
    cdef const uint8_t *pad
    if pointer & 3 == FAR:
        double = pointer >> 2 & 1
        segment = pointer >> 32
        at = <uint32_t>pointer >> 3
        pad = _claim(message, segment, at, 2 if double else 1)
        if pad == NULL:
            return False
        pointer = _word(pad)
        if double:  # the pad says where it is, then what it is
            far = pointer
            if far & 3 != FAR:
                return _fail(message, b"the landing pad of a far pointer holds none")
            found.pointer = _word(pad + 8)
            found.segment = far >> 32
            found.start = <uint32_t>far >> 3
            return True
    found.pointer = pointer
    found.segment = segment
    found.start = <int64_t>at + 1 + (<int32_t><uint32_t>pointer >> 2)
    return True


cdef bint _pointer(Message *message, const Struct *holder, uint64_t number, Target *found) noexcept nogil:
    """The target of a pointer of a struct; none where the struct is older than the pointer."""
    cdef uint64_t at = holder.pointers + number
    found.none = number >= holder.pointer_count or _word(_at(message, holder.segment, at)) == 0
    return found.none or _follow(message, holder.segment, at, found)


cdef bint _struct(Message *message, const Struct *holder, uint64_t number, Struct *found) noexcept nogil:
    cdef Target target
    found.data_size = 0
    found.pointer_count = 0
    if not _pointer(message, holder, number, &target):
        return False
    return target.none or _struct_at(message, &target, found)


cdef bint _struct_at(Message *message, const Target *target, Struct *found) noexcept nogil:
    if target.pointer & 3 != STRUCT:
        return _fail(message, b"a pointer leads to something else than a struct")
    found.data_size = (target.pointer >> 32 & 0xFFFF) * 8
    found.pointer_count = target.pointer >> 48
    found.segment = target.segment
    found.data = _claim(message, target.segment, target.start, found.data_size // 8 + found.pointer_count)
    found.pointers = <uint64_t>target.start + found.data_size // 8
    return found.data != NULL


cdef bint _structs(Message *message, const Struct *holder, uint64_t number, Structs *found) noexcept nogil:
    cdef Target target
    cdef uint64_t code, count, words, tag
    cdef Struct *first = &found.first
    found.count = 0
    if not _pointer(message, holder, number, &target):
        return False
    if target.none:
        return True
    if target.pointer & 3 != LIST:
        return _fail(message, b"a pointer leads to something else than a list")
    code = target.pointer >> 32 & 7
    count = target.pointer >> 35
    first.segment = target.segment
    if code == COMPOSITE:  # `count` is in words; a tag before the first element says what they are
        first.data = _claim(message, target.segment, target.start, count + 1)
        if first.data == NULL:
            return False
        tag = _word(first.data)
        if tag & 3 != STRUCT:
            return _fail(message, b"a list holds something else than structs")
        first.data += 8
        first.data_size = (tag >> 32 & 0xFFFF) * 8
        first.pointer_count = tag >> 48
        found.count = <uint32_t>tag >> 2 & 0x1FFFFFFF  # its top bit has no meaning
        words = first.data_size // 8 + first.pointer_count
        if found.count * words > count:
            return _fail(message, b"the elements of a list overrun it")
        first.pointers = <uint64_t>target.start + 1 + first.data_size // 8
    else:
        if code == BIT:
            return _fail(message, b"a list holds bits instead of structs")
        found.count = count
        first.pointer_count = code == POINTER
        first.data_size = 0 if code == 0 or code == POINTER else 1 << (code - BYTE)
        words = (count * (first.data_size + 8 * first.pointer_count) + 7) // 8
        first.data = _claim(message, target.segment, target.start, words)
        if first.data == NULL:
            return False
        first.pointers = <uint64_t>target.start
    found.step = first.data_size + 8 * first.pointer_count
    return found.step != 0 or _spend(message, found.count)  # elements without a size are not free


cdef void _element(const Structs *items, uint64_t number, Struct *found) noexcept nogil:
    found[0] = items.first
    found.data += number * items.step
    found.pointers += number * items.step // 8  # elements that hold pointers are whole words


cdef bint _blob(Message *message, const Struct *holder, uint64_t number, Blob *found) noexcept nogil:
    """A Text or Data, empty where there is none."""
    cdef Target target
    found.start = NULL
    found.size = 0
    if not _pointer(message, holder, number, &target):
        return False
    if target.none:
        return True
    if target.pointer & 3 != LIST or target.pointer >> 32 & 7 != BYTE:
        return _fail(message, b"a pointer leads to something else than bytes")
    found.size = target.pointer >> 35
    found.start = _claim(message, target.segment, target.start, (found.size + 7) // 8)
    return found.start != NULL


cdef uint64_t _number(const Struct *holder, uint64_t at, uint64_t size) noexcept nogil:
    """The number of `size` bytes, `at` bytes into the data of a struct; 0 beyond its end."""
    cdef uint64_t number = 0
    if at + size <= holder.data_size:
        memcpy(&number, holder.data + at, size)
    return number


cdef class Record:
    """One record, open for reading: its segments, and the struct at its root.

    `budget` bounds the words that may be followed.  Raises ValueError for a malformed frame or root.
    """

    cdef bytes held
    cdef Message message
    cdef Struct root

    def __cinit__(self, bytes record not None, uint64_t budget):
        cdef Target target
        self.held = record
        self.message.budget = budget
        # an honest entry, or chunk, takes six words and more; a few without a word are nobody's harm
        self.message.objects = <uint64_t>PyBytes_GET_SIZE(record) // 32 + 4096
        if PyBytes_GET_SIZE(record) % 8:
            raise ValueError("it is no whole number of words")
        self._frame(<const uint8_t *>PyBytes_AS_STRING(record), <uint64_t>PyBytes_GET_SIZE(record) // 8)
        if not (
            _claim(&self.message, 0, 0, 1) != NULL
            and _follow(&self.message, 0, 0, &target)
            and _struct_at(&self.message, &target, &self.root)
        ):
            self._raise()

    def __dealloc__(self):
        PyMem_Free(self.message.segments)

    cdef int _frame(self, const uint8_t *record, uint64_t words) except -1:
        """Find the segments: their count less one, the words of each, then the segments."""
        cdef uint64_t count, i, at
        cdef uint32_t size
        if words == 0:
            raise ValueError("it is empty")
        if words > <uint64_t>0xFFFFFFFF:
            raise ValueError("it is longer than any record")
        count = <uint64_t><uint32_t>_word(record) + 1
        at = count // 2 + 1
        if at > words:
            raise ValueError("it ends within its table of segments")
        self.message.segments = <Segment *>PyMem_Malloc(count * sizeof(Segment))
        if self.message.segments == NULL:
            raise MemoryError
        self.message.record = record
        self.message.count = count
        for i in range(count):
            memcpy(&size, record + 4 + i * 4, 4)
            if size > words - at:
                raise ValueError("it ends within a segment")
            self.message.segments[i].start = <uint32_t>at
            self.message.segments[i].words = size
            at += size
        return 0

    cdef int _raise(self) except -1:
        raise ValueError(self.message.fault.decode())

    cdef bytes _bytes(self, const Struct *holder, uint64_t number):
        cdef Blob blob
        if not _blob(&self.message, holder, number, &blob):
            self._raise()
        return PyBytes_FromStringAndSize(<const char *>blob.start, blob.size)

    cdef bytes _text(self, const Struct *holder, uint64_t number):
        """A Text as bytes: without the NUL that ends it on the wire."""
        cdef Blob blob
        if not _blob(&self.message, holder, number, &blob):
            self._raise()
        if blob.size and blob.start[blob.size - 1] == 0:
            blob.size -= 1
        return PyBytes_FromStringAndSize(<const char *>blob.start, blob.size)


# -- the records ---------------------------------------------------------------------------
#
# Places of fields: pointers by their number, numbers by their offset in bytes.  They follow from the
# published schema, flist.capnp, and a test compares them with what the compiler of schemas says.

cdef enum:
    DIR_CONTENTS = 2
    DIR_ACLKEY = 4
    DIR_MTIME = 8
    DIR_CTIME = 12

    INODE_NAME = 0
    INODE_VALUE = 1
    INODE_ACLKEY = 2
    INODE_SIZE = 0
    INODE_WHICH = 8
    INODE_MTIME = 12
    INODE_CTIME = 16

    WHICH_DIR = 0
    WHICH_FILE = 1
    WHICH_LINK = 2
    WHICH_SPECIAL = 3

    SUBDIR_KEY = 0
    LINK_TARGET = 0
    FILE_BLOCKS = 0
    FILE_BLOCK_SIZE = 0
    BLOCK_HASH = 0
    BLOCK_KEY = 1
    SPECIAL_DATA = 0
    SPECIAL_TYPE = 0

    ACI_UNAME = 0
    ACI_GNAME = 1
    ACI_MODE = 0
    ACI_UID = 8
    ACI_GID = 16

cdef uint64_t MAX_FILE_SIZE = 0x7FFFFFFFFFFFFFFF  # bytes; off_t
cdef uint64_t UNIT = BLOCK_UNIT
cdef uint64_t DEFAULT_BLOCK = CHUNK_SIZE
cdef uint64_t SPECIAL_KINDS = 4

cdef object DIR = Kind.DIR
cdef object FILE = Kind.FILE
cdef object LINK = Kind.LINK
cdef tuple SPECIAL = (Kind.SOCKET, Kind.BLOCK, Kind.CHARDEV, Kind.FIFO)
cdef tuple NO_DEVICE = (0, 0)


def read_directory(bytes record not None, uint64_t budget, owner_of, device_of) -> tuple:
    """(attributes, entries, how many were skipped as being of an unknown kind) of a directory's record.

    `owner_of` makes (mode, uid, gid) of an ACI's key, `device_of` (major, minor) of a device's bytes.
    Raises ValueError for a malformed record.
    """
    cdef Record reader = Record(record, budget)
    cdef Structs contents
    cdef Struct inode
    cdef uint64_t i, skipped = 0
    cdef list entries = []
    attributes = _attributes(
        owner_of(reader._text(&reader.root, DIR_ACLKEY)),
        _number(&reader.root, DIR_MTIME, 4),
        _number(&reader.root, DIR_CTIME, 4),
    )
    if not (
        _structs(&reader.message, &reader.root, DIR_CONTENTS, &contents)
        and _make(&reader.message, contents.count)
    ):
        reader._raise()
    for i in range(contents.count):
        _element(&contents, i, &inode)
        entry = _entry(reader, &inode, owner_of, device_of)
        if entry is None:
            skipped += 1
        else:
            entries.append(entry)
    return attributes, entries, skipped


def read_aci(bytes record not None, uint64_t budget) -> tuple:
    """(user name, group name, mode, uid, gid) of an ACI's record; an id is -1 by default, hence the inversion.

    Raises ValueError for a malformed record.
    """
    cdef Record reader = Record(record, budget)
    return (
        reader._text(&reader.root, ACI_UNAME),
        reader._text(&reader.root, ACI_GNAME),
        _number(&reader.root, ACI_MODE, 2),
        <int64_t>~_number(&reader.root, ACI_UID, 8),
        <int64_t>~_number(&reader.root, ACI_GID, 8),
    )


cdef object _entry(Record reader, const Struct *inode, owner_of, device_of):
    """The entry of an inode, or None for a kind that the schema does not have."""
    cdef uint64_t which = _number(inode, INODE_WHICH, 2)
    cdef uint64_t special
    cdef Struct value
    if which > WHICH_SPECIAL:
        return None
    name = reader._text(inode, INODE_NAME)
    owner = owner_of(reader._text(inode, INODE_ACLKEY))
    attributes = _attributes(owner, _number(inode, INODE_MTIME, 4), _number(inode, INODE_CTIME, 4))
    if not _struct(&reader.message, inode, INODE_VALUE, &value):
        reader._raise()
    if which == WHICH_FILE:
        return _file(reader, name, attributes, _number(inode, INODE_SIZE, 8), &value)
    if which == WHICH_DIR:
        key = reader._text(&value, SUBDIR_KEY)
        return _made(name, DIR, attributes, DIRECTORY_SIZE, key, b"", NO_DEVICE, DEFAULT_BLOCK, ())
    if which == WHICH_LINK:
        target = reader._text(&value, LINK_TARGET)
        return _made(name, LINK, attributes, len(target), b"", target, NO_DEVICE, DEFAULT_BLOCK, ())
    special = _number(&value, SPECIAL_TYPE, 2)
    if special >= SPECIAL_KINDS:
        return None
    kind, device, data = SPECIAL[special], NO_DEVICE, reader._bytes(&value, SPECIAL_DATA)
    if kind is SPECIAL[1] or kind is SPECIAL[2]:
        device = device_of(data)
    return _made(name, kind, attributes, 0, b"", b"", device, DEFAULT_BLOCK, ())


cdef object _file(Record reader, bytes name, attributes, uint64_t size, const Struct *file):
    """A file with as many chunks as its size needs, if the record has them."""
    cdef Structs blocks
    cdef Struct block
    cdef uint64_t i, needed
    cdef uint64_t block_size = _number(file, FILE_BLOCK_SIZE, 2) * UNIT
    if block_size == 0:
        block_size = DEFAULT_BLOCK
    size = min(size, MAX_FILE_SIZE)
    needed = (size + block_size - 1) // block_size
    if not _structs(&reader.message, file, FILE_BLOCKS, &blocks):
        reader._raise()
    needed = min(needed, blocks.count)
    if not _make(&reader.message, needed):
        reader._raise()
    chunks = []
    for i in range(needed):
        _element(&blocks, i, &block)
        ref = (reader._bytes(&block, BLOCK_HASH), reader._bytes(&block, BLOCK_KEY))
        chunks.append(tuple.__new__(ChunkRef, ref))
    return _made(name, FILE, attributes, size, b"", b"", NO_DEVICE, block_size, tuple(chunks))


cdef object _attributes(owner, uint64_t mtime, uint64_t ctime):
    mode, uid, gid = owner
    return tuple.__new__(Attributes, (mode, uid, gid, mtime, ctime))


cdef object _made(name, kind, attributes, size, key, target, device, block_size, chunks):
    return tuple.__new__(Entry, (name, kind, attributes, size, key, target, device, block_size, chunks))
