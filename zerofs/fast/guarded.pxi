# -- mapped files whose pages the disk may fail to give -------------------------------------

cdef extern from "guarded.h" nogil:
    int zerofs_register(uintptr_t start, uintptr_t size) noexcept
    int zerofs_register_writable(uintptr_t start, uintptr_t size) noexcept
    void zerofs_unregister(int number) noexcept
    uint32_t zerofs_faults(int number) noexcept
    uintptr_t zerofs_take_fault() noexcept
    void zerofs_touch(const char *start, uintptr_t size) noexcept
    void *zerofs_map_again(uintptr_t start, uintptr_t size) noexcept
    int zerofs_restore(void *again, uintptr_t start, uintptr_t size) noexcept

cdef extern from "<sys/mman.h>" nogil:
    void *MAP_FAILED
    int munmap(void *address, size_t size)

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)
    int PyBUF_READ


@cython.final
cdef class GuardedMap:
    """A shared mapping of a file, in which a page that cannot be had reads as zeros instead of ending the process.

    The mapping is that of the object `buffer`, or `size` bytes at `address`, which has to stay until `close`.
    Whoever reads in it looks at `faults` afterwards: where that number has grown, what was read may be zeros.  `restore`
    puts the file's own pages back.

    There is a second mapping of the same pages, **for the kernel alone**: a page of zeros is never laid into it, so
    what is handed to a system call from there is the file's bytes or EFAULT.  Touching it in user space is not guarded.

    Raises OSError where the mapping cannot be guarded.  `close` and `restore` belong to one thread at a time.
    """

    cdef Py_buffer view
    cdef bint held
    cdef int number  # -1: closed
    cdef uintptr_t start
    cdef uintptr_t size
    cdef char *again  # the mapping for the kernel
    cdef uint32_t last_restored  # faults that are mended

    def __cinit__(self, buffer=None, uintptr_t address=0, uintptr_t size=0):
        cdef void *again
        self.number = -1
        if buffer is not None:
            PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)
            self.held = True
            address, size = <uintptr_t>self.view.buf, <uintptr_t>self.view.len
        self.start, self.size = address, size
        again = zerofs_map_again(address, size)
        if again == MAP_FAILED:
            raise OSError(errno, "cannot map a file a second time")
        self.again = <char *>again
        self.number = zerofs_register(address, size)
        if self.number < 0:
            raise OSError(errno, "cannot guard the mapping of a file")

    def __dealloc__(self):
        self._end()

    def close(self):
        """Guard no longer; views of the kernel's mapping end."""
        self._end()

    cdef void _end(self) noexcept:
        if self.number >= 0:
            zerofs_unregister(self.number)
            self.number = -1
        if self.again != NULL:
            munmap(self.again, self.size)
            self.again = NULL
        if self.held:
            self.held = False
            PyBuffer_Release(&self.view)

    cdef inline uint32_t count(self) noexcept nogil:
        """Faults so far; needs no GIL."""
        return 0 if self.number < 0 else zerofs_faults(self.number)

    cdef inline bint is_whole(self) noexcept nogil:
        """Whether no page of zeros is in it; needs no GIL."""
        return self.count() == self.last_restored

    @property
    def faults(self):
        """How many pages could not be had since the guard began."""
        return self.count() // 2

    @property
    def whole(self):
        """Whether no page of zeros is in it."""
        return self.is_whole()

    def restore(self):
        """The file's own pages everywhere: what could not be had is tried again at the next touch."""
        cdef uint32_t faults = self.count()
        if self.number >= 0 and faults != self.last_restored:
            if zerofs_restore(self.again, self.start, self.size) != 0:
                raise OSError(errno, "cannot map the pages of a file again")
            self.last_restored = faults

    def holds(self, view, uintptr_t address) -> bool:
        """Whether `address` lies in a page of `view`."""
        cdef Py_buffer buffer
        cdef uintptr_t page = 4095
        PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
        inside = (<uintptr_t>buffer.buf & ~page) <= address < ((<uintptr_t>buffer.buf + <uintptr_t>buffer.len + page) & ~page)
        PyBuffer_Release(&buffer)
        return inside

    def for_kernel(self, view) -> memoryview:
        """The same bytes as `view`, which lies in the guarded mapping, in the one for the kernel."""
        cdef Py_buffer buffer
        cdef uintptr_t offset
        cdef Py_ssize_t size
        PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
        offset, size = <uintptr_t>buffer.buf - self.start, buffer.len
        PyBuffer_Release(&buffer)
        if self.again == NULL or offset > self.size or <uintptr_t>size > self.size - offset:
            raise ValueError("not a part of the mapping")
        return PyMemoryView_FromMemory(self.again + offset, size, PyBUF_READ)


    def touch(self, view):
        """Read a byte of every page of `view`, which `for_kernel` gave, in the guarded mapping."""
        cdef Py_buffer buffer
        cdef uintptr_t offset
        PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
        offset = <uintptr_t>buffer.buf - <uintptr_t>self.again
        if offset <= self.size and <uintptr_t>buffer.len <= self.size - offset:
            with nogil:
                zerofs_touch(<char *>self.start + offset, buffer.len)
        PyBuffer_Release(&buffer)


def take_fault() -> int:
    """The address at which this thread touched a page that could not be had, since it last asked; 0: it did not."""
    return zerofs_take_fault()
