# The content of one message on its way in, measured and judged. Included by server_lane.pyx.

cdef enum:
    # In the order of the refusals of `Words`.
    FINE = -1
    HAS_NUL = 0
    BARE_LF = 1
    BARE_CR = 2
    TOO_LARGE = 3
    LOOP = 4
    HEADER_TOO_LARGE = 5


cdef class BodyReader:
    cdef object scanner
    cdef object header
    cdef bint binary, normalise, header_ended
    cdef int64_t max_bytes, max_header_bytes, max_received
    cdef tuple refusals
    cdef readonly object refusal
    cdef readonly bint ended

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(
        self, tuple refusals not None, *, bint dotted, bint normalise, bint binary, int64_t max_bytes,
        int64_t max_header_bytes, int64_t max_received,
    ):
        self.max_bytes = max_bytes
        self.max_header_bytes = max_header_bytes
        self.max_received = max_received
        self.begin(refusals, dotted, normalise, binary)

    cdef int begin(self, tuple refusals, bint dotted, bint normalise, bint binary) except -1:
        self.refusals = refusals
        self.binary = binary
        self.normalise = normalise and not binary
        self.scanner = DataScanner(dotted=dotted, normalise=True) if self.normalise else DataScanner(dotted=dotted)
        self.header = HeaderScanner()
        return 0

    @property
    def size_bytes(self):
        return self.scanner.size

    def feed(self, bytes buffer not None, Py_ssize_t start, Py_ssize_t stop):
        cdef tuple found = self.scanner.feed(buffer, start, stop)
        self.ended = self.scanner.ended
        if self.refusal is None:
            self.judge(found[0])
        return found

    def finish(self):
        piece = self.scanner.finish()
        if self.refusal is None:
            self.judge(piece)
        return piece

    cdef int judge(self, piece) except -1:
        cdef int flaw = self.flaw(piece)
        if flaw != FINE:
            self.refusal = self.refusals[flaw]
        return 0

    cdef int flaw(self, piece) except -2:
        cdef object scanner = self.scanner, header
        if not self.binary:
            if scanner.nul:
                return HAS_NUL
            if not self.normalise:
                if scanner.bare_lf:
                    return BARE_LF
                if scanner.bare_cr:
                    return BARE_CR
        if <int64_t>scanner.size > self.max_bytes:
            return TOO_LARGE
        if not self.header_ended:
            header = self.header
            self.header_ended = header.feed(piece)
            if <int64_t>header.received > self.max_received:
                return LOOP
            if <int64_t>header.size > self.max_header_bytes:
                return HEADER_TOO_LARGE
        return FINE

    def facts(self, kind):
        scanner, header = self.scanner, self.header
        return kind(
            scanner.size, scanner.eight_bit, header.eight_bit, scanner.longest_line, header.received, scanner.nul
        )
