# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""RESP2 as bytes, compiled: commands as they are sent, and the answers out of what a server sends.

Place: below `connection`, one `Answers` for each.  Only the answers that the commands in use can have are let through:
status, error, integer and bulk; arrays only where `nested` says that one was asked for.  Nothing is trusted: each length
is checked before anything is made by it, and memory grows only as fast as bytes arrive.

No state but that of an `Answers`, which is for one thread at a time.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcpy, memmove

from hiredis import pack_command

from zerofs.errors import StoreProtocolError
from zerofs.store.base import MAX_PAYLOAD
from zerofs.store.resp import MAX_ARRAY, MAX_DIGITS, MAX_LINE, Answer
from zerofs.store.spares import Spares

cdef enum:
    _BUFFER = 64 * 1024  # bytes received at once; more than a line
    _GLANCE = 4 * 1024  # bytes received at once where a long payload is likely to begin
    _STEP = 1024 * 1024  # bytes; a longer payload gets its memory while it arrives
    _COPIED = 4096  # bytes; a longer argument stays where it is

cdef enum:
    _STATUS = 43  # +
    _ERROR = 45  # -
    _INTEGER = 58  # :
    _BULK = 36  # $
    _ARRAY = 42  # *
    _CR = 13
    _LF = 10
    _MINUS = 45

cdef int64_t _MOST = 1 << 60  # stands for all that is more
cdef int64_t _max_payload = MAX_PAYLOAD
cdef int64_t _max_line = MAX_LINE
cdef int64_t _max_array = MAX_ARRAY
cdef Py_ssize_t _max_digits = MAX_DIGITS
cdef object _new = tuple.__new__  # that of `Answer` is a function of the interpreter


cdef bytes _pack_short(command):
    """The command as hiredis packs it; None where an argument is long, or no bytes."""
    for argument in command:
        if type(argument) is not bytes or len(<bytes>argument) > _COPIED:
            return None
    return pack_command(tuple(command))


def encode(commands, Py_ssize_t most, Py_ssize_t most_bytes):
    """The next `most` of `commands`, an iterator, as pieces to send; how many those are, and whether there are no more.

    Once they have `most_bytes`, no more are taken either, but one is in any case.  A long argument is a piece of its
    own, uncopied.
    """
    cdef list pieces = []
    cdef bytearray text = bytearray()
    cdef Py_ssize_t added = 0, sent = 0
    cdef bint ended = False
    while added < most and (not added or sent + len(text) < most_bytes):
        command = next(commands, None)
        ended = command is None
        if ended:
            break
        added += 1
        packed = _pack_short(command)
        if packed is not None:
            text += packed
            continue
        text += b"*%d\r\n" % len(command)
        for argument in command:
            text += b"$%d\r\n" % len(argument)
            if len(argument) > _COPIED:
                pieces += (text, argument)
                sent += len(text) + len(argument)
                text = bytearray(b"\r\n")
            else:
                text += argument
                text += b"\r\n"
    if text:
        pieces.append(text)
    return pieces, added, ended


cdef inline object _answer(int kind, value):
    return _new(Answer, (kind, value))


@cython.final
cdef class Answers:
    """Reassembles the answers of one connection.  Errors begin with `display`.

    What the socket has goes where `room` says.  Lines and short payloads come through a buffer; a payload
    that is not all there gets a place of its own, and the rest is received right into it.

    `spares` are buffers to be used for that.  `expected` counts the answers that are still to begin: a
    server that sends more is broken.  An array is its length, and its elements are further answers.
    """

    cdef public Py_ssize_t expected
    cdef readonly int64_t payload_bytes  # of all answers that were taken
    cdef public int64_t full_at  # bytes of payload at which `take` leaves the rest for the next time
    cdef public bint nested  # whether an array is let through; then no element may be longer than a line
    cdef object _spares
    cdef str _display
    cdef bytearray _buffer
    cdef object _view  # of the buffer, which therefore stays where it is
    cdef char *_bytes  # the buffer's
    cdef Py_ssize_t _begin  # of what was received and not taken
    cdef Py_ssize_t _end
    cdef Py_ssize_t _most  # bytes to receive into the buffer at once
    cdef bytearray _body  # a payload on its way, its line end included
    cdef Py_ssize_t _filled  # bytes of it that are here
    cdef int64_t _missing  # bytes that do not have their memory yet
    cdef object _fault  # what comes after the answers that were taken

    def __init__(self, str display not None, spares=None):
        self._display = display
        self._spares = Spares() if spares is None else spares
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._bytes = PyByteArray_AS_STRING(self._buffer)
        self._most = _BUFFER
        self.full_at = _MOST

    def room(self):
        """Where the next bytes go; `received` is to be told how many.  Let go of it before the next call."""
        cdef Py_ssize_t left
        if self._body is not None:
            if self._filled == len(self._body):
                self._grow()
            return memoryview(self._body)[self._filled :]
        if self._begin:  # a line that was cut off, or nothing, is left
            left = self._end - self._begin
            memmove(self._bytes, self._bytes + self._begin, left)
            self._begin, self._end = 0, left
        return self._view[self._end : min(self._end + self._most, _BUFFER)]

    def received(self, Py_ssize_t size):
        if not 0 <= size <= (_BUFFER - self._end if self._body is None else len(self._body) - self._filled):
            raise ValueError(f"{size} bytes were received where there is no room for so many")
        if self._body is not None:
            self._filled += size
        else:
            self._end += size
            self._most = _BUFFER

    def take(self):
        """The whole answers that are here: all of them, or one at the least and no more once `full_at` is reached.

        Raises StoreProtocolError for what comes after those that were taken.
        """
        cdef list taken = []
        if self._fault is not None:
            raise self._fault
        try:
            while (answer := self._take()) is not None:
                taken.append(answer)
                if self.payload_bytes >= self.full_at:
                    break
        except StoreProtocolError as fault:
            self._fault = fault
            if not taken:
                raise
        return taken

    @property
    def pending(self):
        """Whether anything is under way: only a connection where nothing is can be used again."""
        return (
            self.expected != 0 or self._begin != self._end or self._body is not None or self._fault is not None
        )

    cdef object _take(self):
        """The next whole answer, or None while it is incomplete."""
        cdef Py_ssize_t begin = self._begin
        cdef Py_ssize_t here = self._end - begin
        cdef Py_ssize_t size
        cdef char *line = self._bytes + begin
        cdef char *end
        cdef int kind
        if self._body is not None:
            return self._take_body()
        if not here:
            return None
        kind = line[0]
        if kind not in (_STATUS, _ERROR, _INTEGER, _BULK) and not (kind == _ARRAY and self.nested):
            raise self._wrong("answer of a type that was not asked for")
        if self.expected <= 0:
            raise self._wrong("answer to no question")
        end = <char *>memchr(line, _LF, min(here, _max_line))
        if end == NULL:
            if here >= _max_line:
                raise self._wrong("endless line")
            return None
        if (end - 1)[0] != _CR:  # the kind, at the least, stands before it
            raise self._wrong("malformed line")
        self.expected -= 1
        self._begin = begin + (end - line) + 1
        line += 1
        size = end - 1 - line
        if kind == _BULK:
            return self._take_bulk(self._length(line, size))
        if kind == _ARRAY:
            return self._begin_array(self._length(line, size))
        if kind == _INTEGER:
            self._length(line, size)
            return _answer(kind, int(PyBytes_FromStringAndSize(line, size)))
        return _answer(kind, PyBytes_FromStringAndSize(line, size))

    cdef int64_t _length(self, const char *digits, Py_ssize_t size) except? -9:
        """The number that a line is; `_MOST`, or as much below 0, where it is larger than that."""
        cdef Py_ssize_t i, first = 1 if size and digits[0] == _MINUS else 0
        cdef int64_t number = 0
        if size > _max_digits or size == first:
            raise self._wrong("malformed number")
        for i in range(first, size):
            if not 48 <= digits[i] <= 57:
                raise self._wrong("malformed number")
            number = min(number * 10 + (digits[i] - 48), _MOST // 10 if i < size - 1 else _MOST)
        return -number if first else number

    cdef object _begin_array(self, int64_t length):
        if not 0 <= length <= _max_array:
            raise self._wrong("malformed length")
        self.expected += length
        return _answer(_ARRAY, length)

    cdef object _take_bulk(self, int64_t length):
        cdef char *payload = self._bytes + self._begin
        if length > _max_payload or (self.nested and length > _max_line):
            raise self._wrong(f"announces {length} bytes, more than any chunk has")
        if length < -1:
            raise self._wrong("malformed length")
        if length == -1:
            return _answer(_BULK, None)
        if length + 2 > self._end - self._begin:
            return self._begin_body(length + 2)
        if payload[length] != _CR or payload[length + 1] != _LF:
            raise self._wrong("a length does not fit its payload")
        self._begin += length + 2
        self.payload_bytes += length
        return _answer(_BULK, PyBytes_FromStringAndSize(payload, length))

    cdef object _begin_body(self, int64_t size):
        """Give the payload that begins in the buffer a place of its own."""
        cdef Py_ssize_t here = self._end - self._begin
        cdef bytearray body = self._spares.take(min(size, <int64_t>_STEP))
        if len(body) < here:
            raise AssertionError("less memory than asked for")
        memcpy(PyByteArray_AS_STRING(body), self._bytes + self._begin, here)
        self._body = body
        self._missing = size - len(body)
        self._filled = here
        self._begin = self._end = 0
        return self._take_body()

    cdef int _grow(self) except -1:
        cdef Py_ssize_t more = min(self._missing, <int64_t>len(self._body))
        self._body += bytes(more)
        self._missing -= more
        return 0

    cdef object _take_body(self):
        cdef bytearray body = self._body
        cdef Py_ssize_t size = len(body)
        if self._missing or self._filled <= size - 2:
            return None
        if body[size - 2] != _CR:
            raise self._wrong("a length does not fit its payload")
        if self._filled < size:
            return None
        if body[size - 1] != _LF:
            raise self._wrong("a length does not fit its payload")
        del body[size - 2 :]
        self._body = None
        self.payload_bytes += size - 2
        # After a long payload another one is likely: but for its first bytes it is to miss the buffer.
        self._most = _GLANCE if size - 2 > _GLANCE else _BUFFER
        return _answer(_BULK, body)

    cdef object _wrong(self, str reason):
        return StoreProtocolError(f"{self._display}: {reason}")
