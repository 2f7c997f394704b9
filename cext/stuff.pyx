"""Dot-stuffing of a message body on its way out (RFC 5321 §4.5.2), and the search for bare newlines in it.

A body may come in pieces that are cut anywhere, also between CR and LF and before a dot. The walkers of octets.h look
at 64 octets at a time; a piece without a line that begins with a dot is handed back as it is, without a copy.
tests/reference/stuff.py is the plain-Python twin.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcpy

from octets cimport (
    COPY, DOTS, STUFF, VARIANT_COUNT, WALK_BYTES_WORTH_THE_LOCK, RawBytes, Variant, Walk, Walker, all_variants, new_bytes,
    octets_of, release, resize,
)

include "variants.pxi"


cdef class Stuffer:
    cdef Walk walk

    def __cinit__(self):
        self.walk.line_begins = True

    @property
    def bare_newline(self):
        return self.walk.bare_cr or self.walk.bare_lf

    def scan(self, bytes piece not None):
        self.walk.resumed = False
        self.step(STUFF, <const unsigned char*>PyBytes_AS_STRING(piece), 0, PyBytes_GET_SIZE(piece))

    def feed(self, bytes piece not None):
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(piece)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece), at, written
        cdef RawBytes* raw
        self.walk.resumed = False
        at = self.step(STUFF | DOTS, p, 0, size)
        if at == size:
            return piece
        # A guess at how many dots there will be.
        self.walk.spare = (size - at) // 64 + 16
        raw = new_bytes(NULL, size + self.walk.spare)
        memcpy(octets_of(raw), p, at)
        self.walk.out = octets_of(raw) + at
        while True:
            self.walk.resumed = at > 0
            at = self.step(STUFF | DOTS | COPY, p, at, size)
            written = self.walk.out - octets_of(raw)
            if at == size:
                break
            # There are more. At most every other octet can be one.
            self.walk.spare = (size - at) // 2 + 1
            resize(&raw, written + (size - at) + self.walk.spare)
            self.walk.out = octets_of(raw) + written
        resize(&raw, written)
        stuffed = <bytes>raw  # which takes a reference of its own
        release(raw)
        return stuffed

    def finish(self):
        if self.walk.behind_cr:
            self.walk.bare_cr = True
        return b".\r\n" if self.walk.line_begins else b"\r\n.\r\n"

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
