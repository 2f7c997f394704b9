"""The content of a message as it comes off the wire, for DATA (dotted) and BDAT (counted).

Promise: a dotted message ends at CR LF . CR LF and nowhere else (its first CR LF may be the one behind "DATA"),
however the bytes are split; a dot is taken off at the start of a line only; every bare CR, bare LF and NUL is seen.
Memory: one output buffer for each piece fed in, and none for a piece that is content from end to end; lines of any
length are no more than a counter.

How: the walkers of octets.h look at 64 octets at a time and copy them on the way, without the dots. What is left for
here is what they stop at: a dot that may be the final one, and one whose line is not all there yet. `normalise` (each
bare CR or bare LF becomes CR LF) is for few, and steps from one CR or LF to the next.
Source: RFC 5321 §2.3.8, §4.1.1.4, §4.5.2. tests/reference/datastream.py is the plain-Python twin.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy, memset

from octets cimport (
    COPY, DOTS, VARIANT_COUNT, WALK_BYTES_WORTH_THE_LOCK, RawBytes, Variant, Walk, Walker, all_variants, new_bytes,
    octets_of, release, resize,
)

include "variants.pxi"

cdef enum:
    CONTENT  # nothing is held back: `walk` knows what is in front
    DOT  # a dot at the start of a line is held back
    DOT_CR  # a dot and a CR at the start of a line are held back
    # Only when normalising, in place of CONTENT:
    BEGIN  # at the start of a line: behind CR LF, or at the very beginning
    BEGIN_BARE  # at the start of a line behind a bare CR or LF: a dot is unstuffed here but can end nothing
    DOT_BARE
    TEXT  # inside a line
    CR  # a CR has been seen inside a line, and is held back


cdef class DataScanner:
    """Finds the end of one message, and what is odd in it.

    Args:
        dotted: DATA: dots are unstuffed and the message ends at its dot. Otherwise BDAT: it ends when fed out.
        normalise: a bare CR or bare LF in the content becomes CR LF. It can still not be part of the final dot.
    """

    cdef int state
    cdef Walk walk
    cdef readonly bint dotted
    cdef readonly bint normalise
    cdef readonly bint ended
    cdef readonly bint bare_cr
    cdef readonly bint bare_lf
    cdef readonly bint nul
    cdef readonly bint eight_bit
    cdef readonly long long size

    def __init__(self, *, bint dotted, bint normalise=False):
        self.dotted = dotted
        self.normalise = normalise
        self.state = BEGIN if normalise else CONTENT
        self.walk.line_begins = True

    @property
    def longest_line(self):
        """Octets of the longest line so far, without its CR LF."""
        return max(self.walk.lines.longest, self.walk.lines.open - <Py_ssize_t>self.walk.behind_cr)

    def feed(self, bytes buffer not None, Py_ssize_t start, Py_ssize_t stop):
        """Take in buffer[start:stop].

        Returns:
            (piece, next): the content found, perhaps empty, and the offset behind what was used up: `stop`, or
            less if the message ended (then `ended` is true and the rest is not part of it). The piece is `buffer`
            itself where all of that is content.
        """
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(buffer)
        cdef Py_ssize_t behind = start
        if not 0 <= start <= stop <= PyBytes_GET_SIZE(buffer):
            raise IndexError("outside the buffer")
        if self.ended or start == stop:
            return b"", start
        if self.normalise:
            piece = self.feed_normalised(p, &behind, stop)
        else:
            piece = self.feed_strict(buffer, p, &behind, stop)
            self.bare_cr = self.walk.bare_cr
            self.bare_lf = self.walk.bare_lf
        self.nul = self.walk.nul
        self.eight_bit = self.walk.eight_bit
        self.size += PyBytes_GET_SIZE(piece)
        return piece, behind

    def finish(self):
        """The end of a counted message: what was held back. A CR at the very end is a bare one.

        Returns:
            the last octets of content, mostly none.
        """
        if self.normalise and self.state == CR:
            self.bare_cr = True
            self.state = BEGIN_BARE
            self.end_line()
            self.size += 2
            return b"\r\n"
        if self.walk.behind_cr:
            self.bare_cr = self.walk.bare_cr = True
            self.walk.behind_cr = False
        return b""

    cdef bytes feed_strict(self, bytes buffer, const unsigned char* p, Py_ssize_t* behind, Py_ssize_t stop):
        """The content as it is. Moves `behind` to where it ends."""
        cdef Py_ssize_t start = behind[0], at = start, limit = stop
        cdef bint held_cr = False
        cdef bint whole = start == 0 and stop == PyBytes_GET_SIZE(buffer)
        cdef RawBytes* raw
        cdef unsigned char* out
        behind[0] = stop
        self.walk.resumed = False
        if self.state != CONTENT:
            if self.state == DOT and p[at] == c'\r' and at + 1 < stop and p[at + 1] == c'\n':
                at += 1
                self.state = DOT_CR
            if self.state == DOT_CR and p[at] == c'\n':
                self.ended = True
                behind[0] = at + 1
                return b""
            if self.state == DOT and p[at] == c'\r' and at + 1 == stop:
                self.state = DOT_CR
                return b""
            if self.state == DOT_CR:
                # The dot was stuffing, the CR is content.
                held_cr = True
                self.walk.bare_cr = True
                self.walk.lines.open = 1
            self.state = CONTENT
        if not self.dotted:
            self.step(0, p, at, stop)
            return buffer if whole else PyBytes_FromStringAndSize(<const char*>p + start, stop - start)
        if stop - start >= 5 and memcmp(p + stop - 5, b"\r\n.\r\n", 5) == 0:
            limit -= 3  # no octet of the message is behind it, and so none is copied that would be cut off again
        elif whole and not held_cr:
            at = self.step(DOTS, p, at, stop)
            if at == stop:
                return buffer
            self.walk.resumed = at > start
        raw = new_bytes(NULL, held_cr + limit - start)
        out = octets_of(raw)
        if held_cr:
            out[0] = c'\r'
        memcpy(out + held_cr, p + start, at - start)
        self.walk.out = out + held_cr + (at - start)
        behind[0] = self.unstuff(p, at, limit, stop)
        resize(&raw, self.walk.out - out)
        piece = <bytes>raw  # which takes a reference of its own
        release(raw)
        return piece

    cdef Py_ssize_t step(self, int task, const unsigned char* p, Py_ssize_t at, Py_ssize_t stop) noexcept:
        """Walk, and let others run meanwhile if that is worth it."""
        cdef Walk walk
        cdef Walker walker = chosen.walkers[task]
        if stop - at < WALK_BYTES_WORTH_THE_LOCK:
            return walker(&self.walk, p, at, stop)
        walk = self.walk
        with nogil:
            at = walker(&walk, p, at, stop)
        self.walk = walk
        return at

    cdef Py_ssize_t unstuff(
        self, const unsigned char* p, Py_ssize_t at, Py_ssize_t limit, Py_ssize_t stop
    ) noexcept:
        """Copy the content of p[at:stop], of which none is behind `limit`. Returns the offset behind what was used."""
        while True:
            at = self.step(DOTS | COPY, p, at, limit)
            if at == stop:
                return stop
            # In front of a dot that begins a line.
            if stop - at == 1:
                self.state = DOT
                at = stop
            elif p[at + 1] != c'\r':
                at += 1
            elif stop - at == 2:
                self.state = DOT_CR
                at = stop
            elif p[at + 2] == c'\n':
                self.ended = True
                return at + 3
            else:
                at += 1
            self.walk.line_begins = False
            if at == stop:
                return stop
            self.walk.resumed = True

    cdef void end_line(self) noexcept nogil:
        if self.walk.lines.open > self.walk.lines.longest:
            self.walk.lines.longest = self.walk.lines.open
        self.walk.lines.open = 0

    cdef bytes feed_normalised(self, const unsigned char* p, Py_ssize_t* behind, Py_ssize_t stop):
        """The content with each bare CR or LF made CR LF. Moves `behind` to where it ends."""
        cdef Py_ssize_t start = behind[0]
        cdef Walk seen
        # Held back from before: at most a dot and a CR, which may become three octets.
        cdef RawBytes* raw = new_bytes(NULL, (stop - start) * 2 + 3)
        cdef unsigned char* out = octets_of(raw)
        self.walk.out = out
        behind[0] = self.copy_normalised(p, start, stop)
        memset(&seen, 0, sizeof(seen))
        chosen.walkers[0](&seen, p, start, behind[0])
        self.walk.nul |= seen.nul
        self.walk.eight_bit |= seen.eight_bit
        resize(&raw, self.walk.out - out)
        piece = <bytes>raw
        release(raw)
        return piece

    cdef Py_ssize_t copy_normalised(self, const unsigned char* p, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
        cdef Py_ssize_t i = start, lf = start, text_end
        cdef unsigned char c
        cdef unsigned char* out = self.walk.out
        cdef const unsigned char* hit
        while i < stop:
            if self.state == TEXT:
                if lf <= i:
                    hit = <const unsigned char*>memchr(p + i, c'\n', stop - i)
                    lf = stop if hit == NULL else hit - p
                hit = <const unsigned char*>memchr(p + i, c'\r', lf - i)
                text_end = lf if hit == NULL else hit - p
                memcpy(out, p + i, text_end - i)
                out += text_end - i
                self.walk.lines.open += text_end - i
                i = text_end
                if i == stop:
                    break
            c = p[i]
            if self.state == TEXT:
                if c == c'\r':
                    self.state = CR
                else:
                    self.bare_lf = True
                    out[0] = c'\r'
                    out[1] = c'\n'
                    out += 2
                    self.end_line()
                    self.state = BEGIN_BARE
            elif self.state == CR:
                out[0] = c'\r'
                out[1] = c'\n'
                out += 2
                self.end_line()
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
                if self.state == DOT_CR or c == c'\n' or c == c'\r':
                    out[0] = c'.'
                    out += 1
                    self.walk.lines.open += 1
                self.state = CR if self.state == DOT_CR else TEXT
                continue
            i += 1
        self.walk.out = out
        return i
