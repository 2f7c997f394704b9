"""The content of a message as it comes off the wire, for DATA (dotted) and BDAT (counted).

Promise: a dotted message ends at CR LF . CR LF and nowhere else (its first CR LF may be the one behind "DATA"),
however the bytes are split; a dot is taken off at the start of a line only; every bare CR, bare LF and NUL is seen.
Memory: one output buffer for each piece fed in; lines of any length are no more than a counter.

How: as received, bytes are copied in bulk between the few places where a dot is left out (memchr for LF), and a
second, vectorised pass over the same bytes counts CR and NUL: as many CR as CR LF means no bare CR. `normalise`
(each bare CR or bare LF becomes CR LF) writes while it looks and goes octet by octet.
Source: RFC 5321 §2.3.8, §4.1.1.4, §4.5.2. tests/reference/datastream.py is the plain-Python twin.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.string cimport memchr, memcpy

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** pv, Py_ssize_t newsize) except -1
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* v, Py_ssize_t size) except NULL
    char* octets_of "PyBytes_AS_STRING"(PyObject* v)
    void release "Py_DECREF"(PyObject* v)

cdef enum:
    BEGIN  # at the start of a line: behind CR LF, or at the very beginning
    TEXT  # inside a line
    CR  # a CR has been seen inside a line
    DOT  # a dot at the start of a line is held back
    DOT_CR  # a dot and a CR at the start of a line are held back
    # Only when normalising: a line begins behind a bare CR or LF, where a dot is unstuffed but can end nothing.
    BEGIN_BARE
    DOT_BARE


cdef class DataScanner:
    """Finds the end of one message, and what is odd in it.

    Args:
        dotted: DATA: dots are unstuffed and the message ends at its dot. Otherwise BDAT: it ends when fed out.
        normalise: a bare CR or bare LF in the content becomes CR LF. It can still not be part of the final dot.
    """

    cdef int state
    cdef readonly bint dotted
    cdef readonly bint normalise
    cdef readonly bint ended
    cdef readonly bint bare_cr
    cdef readonly bint bare_lf
    cdef readonly bint nul
    cdef readonly bint eight_bit
    cdef readonly long long size
    cdef Py_ssize_t longest
    cdef Py_ssize_t line

    def __init__(self, *, bint dotted, bint normalise=False):
        self.dotted = dotted
        self.normalise = normalise
        self.state = BEGIN

    @property
    def longest_line(self):
        """Octets of the longest line so far, without its CR LF."""
        cdef Py_ssize_t line = self.line - (1 if self.state == CR and not self.normalise else 0)
        return max(self.longest, line)

    cdef void end_line(self, Py_ssize_t length) noexcept nogil:
        if length > self.longest:
            self.longest = length
        self.line = 0

    def feed(self, bytes buffer not None, Py_ssize_t start, Py_ssize_t stop):
        """Take in buffer[start:stop].

        Returns:
            (piece, next): the content found, perhaps empty, and the offset behind what was used up: `stop`, or
            less if the message ended (then `ended` is true and the rest is not part of it).
        """
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(buffer)
        cdef Py_ssize_t room, written = 0, behind
        cdef PyObject* raw
        cdef unsigned char* out
        if not 0 <= start <= stop <= PyBytes_GET_SIZE(buffer):
            raise IndexError("outside the buffer")
        if self.ended or start == stop:
            return b"", start
        # Held back from before: at most a dot and a CR, which may become three octets.
        room = (stop - start) * (2 if self.normalise else 1) + 3
        raw = new_bytes(NULL, room)
        out = <unsigned char*>octets_of(raw)
        with nogil:
            if self.normalise:
                behind = self.copy_normalised(p, start, stop, out, &written)
            else:
                behind = self.copy_strict(p, start, stop, out, &written)
        self.size += written
        _PyBytes_Resize(&raw, written)
        piece = <object>raw  # which takes a reference of its own
        release(raw)
        return piece, behind

    def finish(self):
        """The end of a counted message: what was held back. A CR at the very end is a bare one.

        Returns:
            the last octets of content, mostly none.
        """
        if self.state != CR:
            return b""
        self.bare_cr = True
        if not self.normalise:
            self.state = TEXT
            return b""
        self.state = BEGIN_BARE
        self.end_line(self.line)
        self.size += 2
        return b"\r\n"

    cdef void survey(self, const unsigned char* p, Py_ssize_t size, Py_ssize_t* crs) noexcept nogil:
        """Note NUL and 8-bit octets, add the number of CR to `crs`. Blocks of 128, so that the counters fit in
        octets and the compiler can use the widest registers."""
        cdef Py_ssize_t at = 0, stop, i
        cdef unsigned char all_bits = 0, cr, nul = 0, c
        while at < size:
            stop = at + 128 if size - at > 128 else size
            cr = 0
            for i in range(at, stop):
                c = p[i]
                all_bits |= c
                cr += c == 13
                nul |= c == 0
            crs[0] += cr
            at = stop
        if nul:
            self.nul = True
        if all_bits & 128:
            self.eight_bit = True

    cdef Py_ssize_t copy_strict(
        self, const unsigned char* p, Py_ssize_t start, Py_ssize_t stop, unsigned char* out, Py_ssize_t* written
    ) noexcept nogil:
        """Copy the content as it is. Returns the offset behind what was used."""
        cdef Py_ssize_t i = start
        cdef Py_ssize_t copied = start  # all before this is written or left out
        cdef Py_ssize_t w = 0, lf, crs = 0
        cdef Py_ssize_t line_start  # this line's first octet, counted back by what of it came in earlier pieces
        cdef const unsigned char* hit
        if self.state == CR or self.state == DOT_CR:
            crs = 1
        line_start = start - self.line
        while i < stop:
            if self.state == BEGIN:
                line_start = i
                if self.dotted and p[i] == c'.':
                    memcpy(out + w, p + copied, i - copied)
                    w += i - copied
                    i += 1
                    copied = line_start = i
                    self.state = DOT
                    continue
                self.state = TEXT
            elif self.state == DOT:
                line_start = i
                if p[i] == c'\r':
                    i += 1
                    copied = i
                    self.state = DOT_CR
                    continue
                self.state = TEXT
            elif self.state == DOT_CR:
                if p[i] == c'\n':
                    i += 1
                    copied = i
                    crs -= 1
                    self.ended = True
                    break
                # The dot goes, the CR is content. (It was before `i`, perhaps in an earlier piece.)
                out[w] = c'\r'
                w += 1
                line_start = i - 1
                self.state = TEXT
            hit = <const unsigned char*>memchr(p + i, c'\n', stop - i)
            if hit == NULL:
                self.state = CR if p[stop - 1] == c'\r' else TEXT
                i = stop
                break
            lf = hit - p
            if (p[lf - 1] == c'\r') if lf > i else self.state == CR:
                crs -= 1
                self.end_line(lf - 1 - line_start)
                self.state = BEGIN
                line_start = lf + 1
            else:
                self.bare_lf = True
                self.state = TEXT
            i = lf + 1
        memcpy(out + w, p + copied, i - copied)
        w += i - copied
        self.line = 0 if self.state == BEGIN or self.state == DOT or self.state == DOT_CR else i - line_start
        self.survey(p + start, i - start, &crs)
        if self.state == CR or (self.state == DOT_CR and not self.ended):
            crs -= 1  # not decided yet
        if crs > 0:
            self.bare_cr = True
        written[0] = w
        return i

    cdef Py_ssize_t copy_normalised(
        self, const unsigned char* p, Py_ssize_t start, Py_ssize_t stop, unsigned char* out, Py_ssize_t* written
    ) noexcept nogil:
        """Copy the content with each bare CR or LF made CR LF. Returns the offset behind what was used."""
        cdef Py_ssize_t i = start, w = 0, unused = 0
        cdef unsigned char c
        while i < stop:
            c = p[i]
            if self.state == TEXT:
                if c == c'\r':
                    self.state = CR
                elif c == c'\n':
                    self.bare_lf = True
                    out[w] = c'\r'
                    out[w + 1] = c'\n'
                    w += 2
                    self.end_line(self.line)
                    self.state = BEGIN_BARE
                else:
                    out[w] = c
                    w += 1
                    self.line += 1
            elif self.state == CR:
                out[w] = c'\r'
                out[w + 1] = c'\n'
                w += 2
                self.end_line(self.line)
                if c == c'\n':
                    self.state = BEGIN
                else:
                    self.bare_cr = True
                    self.state = BEGIN_BARE
                    continue
            elif self.state == BEGIN or self.state == BEGIN_BARE:
                if self.dotted and c == c'.':
                    self.state = DOT if self.state == BEGIN else DOT_BARE
                else:
                    self.state = TEXT
                    continue
            elif self.state == DOT and c == c'\r':
                self.state = DOT_CR
            elif self.state == DOT_CR and c == c'\n':
                self.ended = True
                i += 1
                break
            else:
                # A held dot. Alone on its line it is content that ends nothing; before other text it is stuffing.
                if self.state == DOT_CR:
                    self.state = CR
                    out[w] = c'.'
                    w += 1
                    self.line += 1
                    continue
                if c == c'\n' or c == c'\r':
                    out[w] = c'.'
                    w += 1
                    self.line += 1
                self.state = TEXT
                continue
            i += 1
        self.survey(p + start, i - start, &unused)
        written[0] = w
        return i
