"""The header of a message, looked at while its pieces come in.

Promise: counts the Received fields (for loop detection), says where the header ends and how large it is so far, and
whether it has 8-bit octets. Constant memory, nothing is kept of the text.

How: a state machine on the first octets of each line, memchr for the rest of it. The header ends at an empty line,
or before the first line that is neither a field nor a continuation (as Postfix does with a message without header).
A line ends at LF, whether or not a CR is before it. "From " on the very first line, of an mbox file, is let pass.
Source: RFC 5322 §2.2, §4.5 (blanks before the colon). tests/reference/headers.py is the plain-Python twin.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr

cdef enum:
    BEGIN  # at the start of a line
    BEGIN_CR  # a CR at the start of a line
    NAME  # in a field name
    NAME_BLANK  # behind a field name, before its colon
    REST  # anything up to the end of the line

cdef const unsigned char* RECEIVED = b"received"
cdef const unsigned char* FROM = b"From"


cdef class HeaderScanner:
    """Feed it the unstuffed content from its beginning until `ended`."""

    cdef int state
    cdef int matched
    cdef bint first_line
    cdef long long line_start
    cdef readonly bint ended
    cdef readonly bint eight_bit
    cdef readonly int received
    cdef readonly long long size

    def __cinit__(self):
        self.state = BEGIN
        self.first_line = True

    def feed(self, bytes piece not None):
        """Take in the next piece; what comes after the end of the header is not looked at.

        Returns:
            `ended`.
        """
        if not self.ended:
            self.scan(<const unsigned char*>PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
        return self.ended

    cdef bint name_octet(self, unsigned char c) noexcept nogil:
        """Take in one more octet of a field name. `matched` counts how much of "received" it is, -1: it is not;
        below -1: so many octets of "From", in its own case, on the first line."""
        cdef unsigned char lower = c + 32 if c'A' <= c <= c'Z' else c
        if not 33 <= c <= 126:
            return False
        if self.matched >= 0:
            if self.matched < 8 and lower == RECEIVED[self.matched]:
                self.matched += 1
            elif self.matched == 0 and self.first_line and c == FROM[0]:
                self.matched = -2
            else:
                self.matched = -1
        elif self.matched < -1:
            # -2: "F" seen, -5: "From" seen
            self.matched = self.matched - 1 if self.matched > -5 and c == FROM[-1 - self.matched] else -1
        return True

    cdef void scan(self, const unsigned char* p, Py_ssize_t stop) noexcept nogil:
        cdef Py_ssize_t i = 0, k, line_end
        cdef unsigned char c, bits
        cdef const unsigned char* hit
        while i < stop:
            c = p[i]
            if self.state == REST:
                hit = <const unsigned char*>memchr(p + i, c'\n', stop - i)
                line_end = stop if hit == NULL else hit - p + 1
                bits = 0
                for k in range(i, line_end):
                    bits |= p[k]
                if bits & 128:
                    self.eight_bit = True
                self.size += line_end - i
                i = line_end
                if hit != NULL:
                    self.state = BEGIN
                    self.first_line = False
                continue
            if self.state == BEGIN:
                self.line_start = self.size
                self.matched = 0
                if c == c'\n':
                    self.size += 1
                    self.ended = True
                    return
                if c == c'\r':
                    self.state = BEGIN_CR
                elif (c == c' ' or c == c'\t') and not self.first_line:
                    self.state = REST
                elif c != c':' and self.name_octet(c):
                    self.state = NAME
                else:
                    self.ended = True
                    return
            elif self.state == BEGIN_CR:
                if c == c'\n':
                    self.size += 1
                else:
                    self.size = self.line_start
                self.ended = True
                return
            elif c == c':':
                if self.matched == 8:
                    self.received += 1
                self.state = REST
            elif c == c' ' or c == c'\t':
                self.state = REST if self.matched == -5 and self.state == NAME else NAME_BLANK
            elif self.state == NAME_BLANK or not self.name_octet(c):
                self.size = self.line_start
                self.ended = True
                return
            self.size += 1
            i += 1
            if self.state == NAME and self.matched == -1:
                # Not one of those that we know: whatever else is in it makes no difference.
                k = i
                while k < stop and 33 <= p[k] <= 126 and p[k] != c':':
                    k += 1
                self.size += k - i
                i = k
