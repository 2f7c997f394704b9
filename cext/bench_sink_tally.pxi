# Which messages came: their marks, their sums, and the counts. Included by bench_sink.pyx.

cdef enum:
    HEAD_BYTES = 64 * 1024  # a mark is looked for in so much of a message
    MAX_BITMAP_INDEX = 1 << 20
    MAX_BITMAP_NUMBER = 1 << 27
    LEAST_BITMAP_BYTES = 8
    # As in postroika.bench.histogram.
    SUB_BITS = 6
    UNIT_BITS = 10
    LARGEST_BITS = 34

cdef bint HAS_FAST_CRC = crc32_is_fast() != 0


cdef uint32_t checksum_of(uint32_t crc, bytes piece, Py_ssize_t start) except? 0:
    """The CRC-32 of what had `crc`, and then piece[start:]."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(piece) - start, whole = 0
    if HAS_FAST_CRC and size >= 64:
        whole = size & ~15
        crc = crc32_long(crc, <const unsigned char*>PyBytes_AS_STRING(piece) + start, whole)
    if whole < size:
        crc = zlib_crc32(piece[start + whole:], crc)
    return crc


cdef const char* after(const char* at, const char* end, const char* word, Py_ssize_t size) noexcept nogil:
    """Behind `word`, if that is what stands at `at`."""
    if at == NULL or end - at < size or memcmp(at, word, size) != 0:
        return NULL
    return at + size


cdef const char* take_digits(const char* at, const char* end, int least, int most, int64_t* value) noexcept nogil:
    """Behind so many decimal digits of a number that fits."""
    cdef int count = 0
    cdef int64_t found = 0
    if at == NULL:
        return NULL
    while count < most and at < end and c"0" <= at[0] <= c"9":
        if found > (INT64_MAX - 9) // 10:
            return NULL
        found = found * 10 + (at[0] - c"0")
        at += 1
        count += 1
    if count < least:
        return NULL
    value[0] = found
    return at


cdef const char* take_hex(const char* at, const char* end, uint32_t* value) noexcept nogil:
    """Behind eight digits."""
    cdef int i
    cdef uint32_t found = 0
    if at == NULL or end - at < 8:
        return NULL
    for i in range(8):
        if c"0" <= at[i] <= c"9":
            found = found << 4 | <uint32_t>(at[i] - c"0")
        elif c"a" <= at[i] <= c"f":
            found = found << 4 | <uint32_t>(at[i] - c"a" + 10)
        else:
            return NULL
    value[0] = found
    return at + 8


cdef const char* line_end(const char* at, const char* end) noexcept nogil:
    """Behind CR LF, or LF alone."""
    if at != NULL and at < end and at[0] == c"\r":
        at += 1
    return at + 1 if at != NULL and at < end and at[0] == c"\n" else NULL


cdef int64_t index_in(const char* address, Py_ssize_t size) noexcept nogil:
    """Which recipient of its message this is, -1 if it is none of the load generator's: see messages.recipient_index."""
    cdef int64_t index = 0
    cdef const char* end = address + size
    cdef const char* behind
    if size < 2 or address[0] != c"r":
        return -1
    behind = take_digits(address + 1, end, 1, 9, &index)
    return index if behind != NULL and behind < end and behind[0] == c"@" else -1


cdef class Content:
    cdef bytes _head
    cdef bint _in_head, _marked
    cdef uint32_t _run, _sum, _checksum
    cdef int64_t _number, _sent_ns

    def __init__(self):
        self.begin()

    cpdef begin(self):
        self._head = b""
        self._in_head = True
        self._marked = False
        self._checksum = 0

    @property
    def mark(self):
        return (self._run, self._number, self._sent_ns, self._sum) if self._marked else None

    @property
    def checksum(self):
        return self._checksum

    cpdef take(self, bytes piece):
        if self._in_head:
            self._take_head(piece)
        elif self._marked:
            self._checksum = checksum_of(self._checksum, piece, 0)

    cpdef end(self):
        if self._in_head:
            self._in_head = False
            self._read(self._head, len(self._head))
            self._head = b""

    cdef int _take_head(self, bytes piece) except -1:
        cdef Py_ssize_t seen = len(self._head), size, body = -1
        cdef bytes head = self._head + piece if seen else piece
        cdef const char* p = PyBytes_AS_STRING(head)
        cdef const char* hit
        size = PyBytes_GET_SIZE(head)
        if size >= 2 and p[0] == c"\r" and p[1] == c"\n":
            body = 2  # a header without fields
        else:
            seen = max(seen - 3, <Py_ssize_t>0)
            hit = <const char*>memmem(p + seen, size - seen, b"\r\n\r\n", 4)
            if hit != NULL:
                body = hit - p + 4
        if body < 0 and size <= HEAD_BYTES:
            self._head = head
            return 0
        self._in_head = False
        self._head = b""
        self._read(head, size if body < 0 else body)
        if self._marked and body >= 0:
            self._checksum = checksum_of(0, head, body)
        return 0

    cdef int _read(self, bytes header, Py_ssize_t size) except -1:
        """See messages.parse_mark."""
        cdef const char* p = PyBytes_AS_STRING(header)
        cdef const char* end = p + size
        cdef const char* at = <const char*>memmem(p, size, b"X-Bench-Id: ", 12)
        if at == NULL or (at > p and (at - 1)[0] != c"\n"):
            return 0
        at = take_hex(at + 12, end, &self._run)
        at = take_digits(after(at, end, b".", 1), end, 1, 10, &self._number)
        at = after(line_end(at, end), end, b"X-Bench-Sent: ", 14)
        at = take_digits(at, end, 20, 20, &self._sent_ns)
        at = after(line_end(at, end), end, b"X-Bench-Sum: ", 13)
        at = take_hex(at, end, &self._sum)
        self._marked = line_end(at, end) != NULL
        return 0


cdef struct Bitmap:
    uint8_t* bits
    Py_ssize_t size


cdef class Run:
    """The recipients of the messages of one run of the load: a bitmap over the numbers for each index."""

    cdef Bitmap* _bitmaps
    cdef int64_t _room
    cdef set _others
    cdef uint64_t[::1] _latencies, _totals

    def __cinit__(self, uint64_t[::1] latencies not None, uint64_t[::1] totals not None):
        if totals.shape[0] < 2 or latencies.shape[0] < (LARGEST_BITS - SUB_BITS + 1) << SUB_BITS:
            raise ValueError("the histogram is too small")
        self._others = set()
        self._latencies = latencies
        self._totals = totals

    def __dealloc__(self):
        cdef int64_t i
        for i in range(self._room):
            free(self._bitmaps[i].bits)
        free(self._bitmaps)

    cdef bint add(self, int64_t number, int64_t index) except -1:
        """Whether it is new."""
        cdef Bitmap* bitmap
        cdef Py_ssize_t at = number >> 3
        cdef uint8_t bit = <uint8_t>(1 << (number & 7))
        if index >= MAX_BITMAP_INDEX or number >= MAX_BITMAP_NUMBER:
            key = (number, index)
            if key in self._others:
                return False
            self._others.add(key)
            return True
        if index >= self._room:
            self._grow(index)
        bitmap = &self._bitmaps[index]
        if at >= bitmap.size:
            self._widen(bitmap, at)
        if bitmap.bits[at] & bit:
            return False
        bitmap.bits[at] |= bit
        return True

    cdef void record(self, int64_t took_ns) noexcept:
        """See histogram.Histogram.record."""
        cdef uint64_t units
        cdef int shift = 0
        if took_ns < 0:
            took_ns = 0
        units = <uint64_t>took_ns >> UNIT_BITS
        if units >> LARGEST_BITS:
            units = (<uint64_t>1 << LARGEST_BITS) - 1
        while units >> shift >= 2 << SUB_BITS:
            shift += 1
        self._latencies[(shift << SUB_BITS) + (units >> shift)] += 1
        self._totals[0] += took_ns
        if <uint64_t>took_ns > self._totals[1]:
            self._totals[1] = took_ns

    cdef int _grow(self, int64_t index) except -1:
        cdef int64_t room = max(index + 1, 2 * self._room)
        cdef Bitmap* grown = <Bitmap*>realloc(self._bitmaps, room * sizeof(Bitmap))
        if grown == NULL:
            raise MemoryError
        memset(grown + self._room, 0, (room - self._room) * sizeof(Bitmap))
        self._bitmaps = grown
        self._room = room
        return 0

    cdef int _widen(self, Bitmap* bitmap, Py_ssize_t at) except -1:
        cdef Py_ssize_t size = max(at + 1, 2 * bitmap.size, <Py_ssize_t>LEAST_BITMAP_BYTES)
        cdef uint8_t* grown = <uint8_t*>realloc(bitmap.bits, size)
        if grown == NULL:
            raise MemoryError
        memset(grown + bitmap.size, 0, size - bitmap.size)
        bitmap.bits = grown
        bitmap.size = size
        return 0


cdef class Tally:
    cdef readonly int64_t messages, recipients, bytes, unique, doubled, damaged, unmarked, first_ns, last_ns
    cdef dict _runs
    cdef Run _run  # that of the last message
    cdef uint32_t _run_number
    cdef int64_t _enough
    cdef object _latency_of, _on_enough

    def __init__(self, latency_of not None, int64_t enough=-1, on_enough=None):
        self._latency_of = latency_of
        self._runs = {}
        self._enough = enough
        self._on_enough = on_enough

    def add(self, recipients, int64_t size_bytes, Content content not None):
        cdef bytes address
        self._begin(len(recipients), size_bytes, content)
        if content._marked:
            for recipient in recipients:
                address = recipient.encode()
                self._add_recipient(content, index_in(address, len(address)))

    def add_identified(self, int64_t unique, int64_t doubled, int64_t size_bytes, Content content not None):
        self._begin(unique + doubled, size_bytes, content)
        if not content._marked:
            self.unmarked -= 1
        self.unique += unique
        self.doubled += doubled

    cdef int _begin(self, int64_t recipients, int64_t size_bytes, Content content) except -1:
        """Count all of a message but who got it."""
        cdef int64_t now = now_ns()
        self.messages += 1
        if self.messages == self._enough:
            self._on_enough()
        self.recipients += recipients
        self.bytes += size_bytes
        self.last_ns = now
        if self.first_ns == 0:
            self.first_ns = now
        if not content._marked:
            self.unmarked += 1
            return 0
        if self._run is None or self._run_number != content._run:
            self._enter(content._run)
        self._run.record(now - content._sent_ns)
        if content._checksum != content._sum:
            self.damaged += 1
        return 0

    cdef int _enter(self, uint32_t number) except -1:
        self._run = self._runs.get(number)
        if self._run is None:
            latency = self._latency_of(number)
            self._run = self._runs[number] = Run(latency.counts, latency.totals)
        self._run_number = number
        return 0

    cdef int _add_recipient(self, Content content, int64_t index) except -1:
        if index >= 0:
            if self._run.add(content._number, index):
                self.unique += 1
            else:
                self.doubled += 1
        return 0
