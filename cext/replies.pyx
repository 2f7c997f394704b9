"""Parsing of the replies of an SMTP server (RFC 5321 §4.2), with enhanced status codes (RFC 2034).

Bytes come in pieces cut anywhere. What is buffered is bounded: one unfinished line and the lines of one unfinished
reply. Everything that a sloppy server does and that leaves no doubt is accepted (LF alone, no text, no space before
the end of the line, octets ≥ 128, unknown codes); everything else is an error, since a reply that is misread under
pipelining is a message lost.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr

from postroika.errors import RemoteProtocolError

cdef enum:
    SHOWN = 80  # how much of a bad line an error tells


cdef inline bint _digit(char c) noexcept:
    return c"0" <= c <= c"9"


cdef Py_ssize_t _enhanced(const char* p, const char* end, char first) noexcept:
    """Length of the enhanced status code at `p` (class "." 1*3digit "." 1*3digit), 0 if there is none."""
    cdef const char* start = p
    cdef int part, digits
    if end - p < 5 or p[0] != first or p[1] != c".":
        return 0
    p += 2
    for part in range(2):
        digits = 0
        while p != end and _digit(p[0]):
            digits += 1
            p += 1
        if digits == 0 or digits > 3:
            return 0
        if part == 0:
            if p == end or p[0] != c".":
                return 0
            p += 1
    if p != end and p[0] != c" " and p[0] != c"\t":
        return 0
    return p - start


cdef class ReplyParser:
    cdef bytes _buffer
    cdef Py_ssize_t _at  # the first octet of _buffer that is not consumed
    cdef list _lines  # texts of the reply under way
    cdef str _status  # its enhanced code
    cdef Py_ssize_t _max_line_bytes
    cdef Py_ssize_t _max_lines

    def __init__(self, Py_ssize_t max_line_bytes=2048, Py_ssize_t max_lines=128):
        self._max_line_bytes = max_line_bytes
        self._max_lines = max_lines
        self._buffer = b""
        self._at = 0
        self._lines = []
        self._status = ""

    @property
    def unfinished(self):
        return self._at < PyBytes_GET_SIZE(self._buffer) or len(self._lines) > 0

    def feed(self, bytes chunk not None):
        if self._at == PyBytes_GET_SIZE(self._buffer):
            self._buffer = chunk
        else:
            self._buffer = self._buffer[self._at:] + chunk
        self._at = 0

    def skip(self, bytes digits not None):
        cdef const char* start = PyBytes_AS_STRING(self._buffer)
        cdef const char* stop = start + PyBytes_GET_SIZE(self._buffer)
        cdef const char* p = start + self._at
        cdef const char* newline
        cdef const char* digit = PyBytes_AS_STRING(digits)
        cdef const char* last = digit + PyBytes_GET_SIZE(digits)
        if p == stop or self._lines:
            return False
        while digit != last:
            newline = <const char*>memchr(p, c"\n", stop - p)
            if (
                newline == NULL
                or newline - p < 4
                or newline - p > self._max_line_bytes
                or p[0] != digit[0]
                or not (_digit(p[1]) and _digit(p[2]))
                or p[3] != c" "
            ):
                return False
            p = newline + 1
            digit += 1
        self._at = p - start
        return True

    def next(self):
        cdef const char* start = PyBytes_AS_STRING(self._buffer)
        cdef const char* stop = start + PyBytes_GET_SIZE(self._buffer)
        cdef const char* p
        cdef const char* end
        cdef const char* newline
        cdef Py_ssize_t length
        cdef int code
        cdef bint last
        cdef str text
        cdef tuple lines
        while True:
            p = start + self._at
            if p == stop:
                return None
            newline = <const char*>memchr(p, c"\n", stop - p)
            if newline == NULL:
                if stop - p > self._max_line_bytes:
                    raise RemoteProtocolError(f"a reply line of more than {self._max_line_bytes} octets")
                return None
            if newline - p > self._max_line_bytes:
                raise RemoteProtocolError(f"a reply line of more than {self._max_line_bytes} octets")
            end = newline
            if end != p and (end - 1)[0] == c"\r":
                end -= 1
            if (
                end - p < 3
                or not c"2" <= p[0] <= c"5"
                or not (_digit(p[1]) and _digit(p[2]))
                or (end - p > 3 and p[3] not in b" -\t")
            ):
                raise RemoteProtocolError(f"not a reply: {self._shown(p, end)}")
            code = (p[0] - c"0") * 100 + (p[1] - c"0") * 10 + (p[2] - c"0")
            last = end - p == 3 or p[3] != c"-"
            self._at = newline + 1 - start
            start_of_code = p[0]
            p += 3 if end - p == 3 else 4
            length = _enhanced(p, end, start_of_code)
            if length:
                if not self._status:
                    self._status = PyUnicode_DecodeUTF8(p, length, NULL)
                p += length
                if p != end:
                    p += 1
            text = PyUnicode_DecodeUTF8(p, end - p, "backslashreplace")
            if last and not self._lines:
                lines = (text,)
            else:
                if len(self._lines) >= self._max_lines:
                    raise RemoteProtocolError(f"a reply of more than {self._max_lines} lines")
                self._lines.append(text)
                if not last:
                    continue
                lines = tuple(self._lines)
                self._lines = []
            text = self._status
            self._status = ""
            # Lines of one reply have the same code; should they not, the last one ends it and counts.
            if text and text[0] != chr(c"0" + code // 100):
                text = ""
            return (code, text, lines)

    cdef str _shown(self, const char* p, const char* end):
        cdef Py_ssize_t length = end - p
        return ascii(PyBytes_FromStringAndSize(p, length if length < SHOWN else SHOWN))[1:]
