"""Dot-stuffing of a message body on its way out (RFC 5321 §4.5.2), and the search for bare newlines in it.

A body may come in pieces that are cut anywhere, also between CR and LF and before a dot. One pass with memchr finds
the lines; a piece without a line that begins with a dot is handed back as it is, without a copy.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy


cdef class Stuffer:
    cdef bint _line_start  # the next octet is the first of a line
    cdef bint _after_cr  # the last octet was CR
    cdef bint _bare

    def __cinit__(self):
        self._line_start = True

    @property
    def bare_newline(self):
        return self._bare

    cdef Py_ssize_t _walk(self, const char* start, Py_ssize_t size) except -1:
        """Note bare CR and LF, keep the state for the next piece; return how many lines of this piece begin with a dot."""
        cdef const char* p = start
        cdef const char* end = start + size
        cdef const char* newline
        cdef const char* cr
        cdef Py_ssize_t dots = 0
        if size == 0:
            return 0
        if self._after_cr and p[0] != c"\n":
            self._bare = True
        if self._line_start and p[0] == c".":
            dots += 1
        while True:
            newline = <const char*>memchr(p, c"\n", end - p)
            if newline == NULL:
                break
            cr = <const char*>memchr(p, c"\r", newline - p)
            if cr == NULL:
                if newline != start or not self._after_cr:
                    self._bare = True
            elif cr != newline - 1:
                self._bare = True
            p = newline + 1
            if p == end:
                break
            if p[0] == c".":
                dots += 1
        # What is left has no LF: a CR in it is bare unless it is the last octet and LF comes next.
        if p != end:
            cr = <const char*>memchr(p, c"\r", end - p)
            if cr != NULL and cr != end - 1:
                self._bare = True
        self._after_cr = (end - 1)[0] == c"\r"
        self._line_start = (end - 1)[0] == c"\n"
        return dots

    def scan(self, bytes piece not None):
        self._walk(PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))

    def feed(self, bytes piece not None):
        cdef const char* p = PyBytes_AS_STRING(piece)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        cdef const char* end = p + size
        cdef const char* newline
        cdef bint line_start = self._line_start
        cdef Py_ssize_t dots = self._walk(p, size)
        cdef Py_ssize_t length
        cdef bytes stuffed
        cdef char* out
        if dots == 0:
            return piece
        stuffed = PyBytes_FromStringAndSize(NULL, size + dots)
        out = PyBytes_AS_STRING(stuffed)
        while p != end:
            if line_start and p[0] == c".":
                out[0] = c"."
                out += 1
            newline = <const char*>memchr(p, c"\n", end - p)
            length = (newline + 1 if newline != NULL else end) - p
            memcpy(out, p, length)
            out += length
            p += length
            line_start = True
        return stuffed

    def finish(self):
        if self._after_cr:
            self._bare = True
        return b".\r\n" if self._line_start else b"\r\n.\r\n"
