"""The express lane of the sink: ordinary mail from the socket to the count, in one call for each read.

Promise: what `Lane` takes, `smtp.server.Server` would take with the same meaning and the same replies; what it does not
know it leaves alone, for the Server to say. It never reads outside a buffer, splits a line nowhere but at CR LF, and
what a connection holds is bounded by the limits of the Server.

How: a command line is plain if it is byte for byte one of

    MAIL FROM:<dot-atom@domain>   or <>, then SIZE=… and BODY=7BIT or 8BITMIME at most
    RCPT TO:<dot-atom@domain>     then ORCPT=rfc822;… at most
    DATA
    BDAT octets LAST

verbs in capitals, domains in small letters, nothing beyond ASCII; and if it is its turn. Lines are kept while their
transaction has not come to its content, so that the Server can be told of them when something else follows. Content is
taken apart by the `DataScanner`, as in the Server, and counted by the marks that the load generator put into it (see
bench_sink_tally.pxi, which the slow way through the Server uses as well).
Source: the grammar is that of command.pyx, narrowed. The oracles are the Server (tests/component/test_sink_express.py)
and postroika.bench.messages, zlib and sets (tests/unit/test_kernel_bench_sink.py).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memset

from output cimport (
    ALL_SENT, SEND_FAILED, SOCKET_FULL, Flushed, Output, output_append, output_clear, output_flush, output_free,
    output_next, output_waits,
)
from sockets cimport MSG_DONTWAIT, now_ns, recv

from zlib import crc32 as zlib_crc32

from postroika.kernels.datastream import DataScanner

cdef extern from "crc32.h" nogil:
    int crc32_is_fast()
    uint32_t crc32_long(uint32_t crc, const unsigned char* at, size_t size)

cdef extern from "<string.h>" nogil:
    """
    #ifndef _GNU_SOURCE
    extern void *memmem(const void *, size_t, const void *, size_t);
    #endif
    """
    void* memmem(const void* hay, size_t hay_size, const void* needle, size_t needle_size)

include "bench_sink_grammar.pxi"
include "bench_sink_tally.pxi"

cdef enum:
    GOES_ON_ = 0
    LEAVES_ = 1
    BLOCKED_ = 2
    GONE_ = 3

# How a call of `Lane` ends.
GOES_ON = GOES_ON_  # everything was taken, and answered as far as there is something to answer
LEAVES = LEAVES_  # the Server has to go on: see `leave`
BLOCKED = BLOCKED_  # the client does not read its replies: see `take_output`
GONE = GONE_  # the connection has ended

cdef enum:
    READ_BYTES = 128 * 1024

cdef enum:
    READY
    IN_MAIL
    IN_RCPT
    CONTENT

cdef class Hub:
    cdef bytes mail_reply, rcpt_reply, data_reply, end_reply, nul, bare_lf, bare_cr, too_large
    cdef int64_t max_message_bytes, max_recipients
    cdef Tally tally
    cdef char* buffer

    def __cinit__(self):
        self.buffer = <char*>malloc(READ_BYTES)
        if self.buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.buffer)

    def __init__(
        self, *, tuple replies not None, tuple refusals not None, int64_t max_message_bytes, int64_t max_recipients,
        Tally tally not None,
    ):
        self.mail_reply, self.rcpt_reply, self.data_reply, self.end_reply = replies
        self.nul, self.bare_lf, self.bare_cr, self.too_large = refusals
        self.max_message_bytes = max_message_bytes
        self.max_recipients = max_recipients
        self.tally = tally


cdef class Lane:
    cdef Hub hub
    cdef Content content
    cdef object on_message
    cdef int state
    cdef bint sizes, dsn, chunking
    cdef int64_t quota
    cdef Output out
    cdef Output envelope  # the lines of MAIL and RCPT
    cdef int64_t recipients
    cdef int64_t* indexes  # which each of them is, -1: none
    cdef int64_t indexes_room
    cdef bytes rest  # a command line that is not whole yet; when leaving: all that the Server has to take
    cdef object scanner
    cdef int64_t left  # of a chunk; -1: the content ends at its dot
    cdef bytes refusal
    cdef readonly int64_t heard_ns
    cdef readonly int64_t accepted
    cdef bint ended

    def __init__(self, Hub hub not None, Content content not None, on_message=None):
        self.hub = hub
        self.content = content
        self.on_message = on_message
        self.rest = b""
        self.left = -1

    def __dealloc__(self):
        output_free(&self.out)
        output_free(&self.envelope)
        free(self.indexes)

    def enter(self, *, bint sizes, bint dsn, bint chunking, int64_t quota):
        self.sizes = sizes
        self.dsn = dsn
        self.chunking = chunking
        self.quota = quota
        self.accepted = 0
        self.ended = False
        self.heard_ns = now_ns()

    def leave(self):
        envelope = self.envelope.buffer[:self.envelope.length]
        rest, self.rest = self.rest, b""
        self.forget()
        return envelope, rest, self.ended

    def forget(self):
        """Drop the transaction."""
        self.begin()
        self.content.begin()

    def take_output(self):
        cdef Py_ssize_t count
        cdef const char* start
        if not output_waits(&self.out):
            return b""
        start = output_next(&self.out, &count)
        waiting = start[:count]
        output_clear(&self.out)
        return waiting

    def ready(self, int fd):
        cdef ssize_t count
        cdef int end
        cdef Flushed flushed
        while True:
            count = recv(fd, self.hub.buffer, READ_BYTES, MSG_DONTWAIT)
            if count > 0:
                break
            if count == 0:
                return GONE_
            if errno == EAGAIN:
                return GOES_ON_
            if errno != EINTR:
                return GONE_
        self.heard_ns = now_ns()
        end = self.work(PyBytes_FromStringAndSize(self.hub.buffer, count))
        if end != GOES_ON_ or not output_waits(&self.out):
            return end
        flushed = output_flush(&self.out, fd)
        if flushed == ALL_SENT:
            output_clear(&self.out)
            return GOES_ON_
        return BLOCKED_ if flushed == SOCKET_FULL else GONE_

    def feed(self, bytes chunk not None):
        self.heard_ns = now_ns()
        return self.work(chunk)

    cdef int begin(self) except -1:
        """Be ready for the next transaction."""
        self.state = READY
        self.recipients = 0
        self.scanner = None
        self.refusal = None
        self.left = -1
        output_clear(&self.envelope)
        if self.envelope.size > READ_BYTES:
            output_free(&self.envelope)  # one message to very many is no reason to keep so much for every connection
        return 0

    cdef int say(self, bytes reply) except -1:
        return output_append(&self.out, PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply))

    cdef int work(self, bytes chunk) except -1:
        cdef Py_ssize_t at = 0, size
        if self.rest:
            chunk = self.rest + chunk
            self.rest = b""
        size = PyBytes_GET_SIZE(chunk)
        while True:
            if self.state != CONTENT:
                at = self.scan(chunk, at)
                if at < 0:
                    self.rest = chunk[-at - 1:]
                    return LEAVES_
                if self.state != CONTENT:
                    if at < size:
                        self.rest = chunk[at:]
                    return GOES_ON_
            at = self.take_content(chunk, at, size)
            if self.state == CONTENT:
                return GOES_ON_
            if self.quota >= 0 and self.accepted >= self.quota:
                self.rest = chunk[at:]
                return LEAVES_
            if at == size:
                return GOES_ON_

    cdef Py_ssize_t scan(self, bytes buffer, Py_ssize_t at) except? -1:
        """Take the commands in buffer[at:], until content follows.

        Returns:
            the offset behind what was used up; of a line that is not plain the offset + 1, negative.
        """
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(buffer)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(buffer), lf
        cdef const unsigned char* hit
        while at < size:
            hit = <const unsigned char*>memchr(p + at, c"\n", size - at)
            if hit == NULL:
                # Only what may become a plain line can wait for its end.
                if size - at > MAX_LINE or not (p[at] == c"M" or p[at] == c"R" or p[at] == c"D" or p[at] == c"B"):
                    return -at - 1
                return at
            lf = hit - p
            if lf == at or p[lf - 1] != c"\r" or lf - at > MAX_LINE or not self.take_line(p + at, lf - 1 - at):
                return -at - 1
            if self.state == CONTENT:
                return lf + 1
            output_append(&self.envelope, <const char*>p + at, lf + 1 - at)
            at = lf + 1
        return at

    cdef bint take_line(self, const unsigned char* p, Py_ssize_t size) except -1:
        """One line without its CR LF. False: it is not plain."""
        if self.state == READY:
            return self.take_mail(p, size)
        if size > 9 and memcmp(p, b"RCPT TO:<", 9) == 0:
            return self.take_rcpt(p + 9, size - 9)
        if self.state != IN_RCPT:
            return False
        if size == 4 and memcmp(p, b"DATA", 4) == 0:
            self.say(self.hub.data_reply)
            self.scanner = DataScanner(dotted=True)
            self.state = CONTENT
            return True
        if size > 5 and self.chunking and memcmp(p, b"BDAT ", 5) == 0:
            return self.take_bdat(p + 5, size - 5)
        return False

    cdef bint take_mail(self, const unsigned char* p, Py_ssize_t size) except -1:
        cdef Py_ssize_t end
        if size < 12 or memcmp(p, b"MAIL FROM:<", 11) != 0:
            return False
        p += 11
        size -= 11
        end = 0 if p[0] == c">" else address_end(p, size)
        if end < 0:
            return False
        end += 1
        if end < size and not (self.sizes and plain_parameters(p + end, size - end, self.hub.max_message_bytes)):
            return False
        self.say(self.hub.mail_reply)
        self.state = IN_MAIL
        return True

    cdef bint take_rcpt(self, const unsigned char* p, Py_ssize_t size) except -1:
        cdef Py_ssize_t end = address_end(p, size), i
        if end < 0 or self.recipients >= self.hub.max_recipients:
            return False
        i = end + 1
        if i < size:
            if not self.dsn or size - i <= 14 or size - i > MAX_ORCPT or memcmp(p + i, b" ORCPT=rfc822;", 14) != 0:
                return False
            i += 14
            while i < size:
                if not KIND[p[i]] & XTEXT:
                    return False
                i += 1
        if self.recipients == self.indexes_room:
            self.grow()
        self.indexes[self.recipients] = index_in(<const char*>p, end)
        self.recipients += 1
        self.say(self.hub.rcpt_reply)
        self.state = IN_RCPT
        return True

    cdef int grow(self) except -1:
        cdef int64_t room = max(2 * self.indexes_room, <int64_t>8)
        cdef int64_t* grown = <int64_t*>realloc(self.indexes, room * sizeof(int64_t))
        if grown == NULL:
            raise MemoryError
        self.indexes = grown
        self.indexes_room = room
        return 0

    cdef bint take_bdat(self, const unsigned char* p, Py_ssize_t size) except -1:
        cdef Py_ssize_t digits = 0
        cdef int64_t octets = number(p, size, &digits)
        if not 0 <= octets <= self.hub.max_message_bytes or size - digits != 5 or memcmp(p + digits, b" LAST", 5) != 0:
            return False
        self.left = octets
        self.scanner = DataScanner(dotted=False)
        self.state = CONTENT
        return True

    cdef Py_ssize_t take_content(self, bytes chunk, Py_ssize_t at, Py_ssize_t size) except -1:
        """Take what is content of chunk[at:]; at its end, answer. Returns the offset behind it."""
        cdef Py_ssize_t stop = size
        cdef bint whole
        cdef bytes piece
        if self.left >= 0:
            stop = min(size, at + self.left)
            self.left -= stop - at
            whole = self.left == 0
            if self.refusal is None:
                piece, _ = self.scanner.feed(chunk, at, stop)
                self.judge(piece)
                if whole and self.refusal is None:
                    self.judge(self.scanner.finish())
            at = stop
        else:
            piece, at = self.scanner.feed(chunk, at, stop)
            whole = self.scanner.ended
            if self.refusal is None:
                self.judge(piece)
        if whole:
            self.end_message()
        return at

    cdef int judge(self, bytes piece) except -1:
        """See smtp.body.BodyReader."""
        scanner = self.scanner
        if scanner.nul:
            self.refusal = self.hub.nul
        elif scanner.bare_lf:
            self.refusal = self.hub.bare_lf
        elif scanner.bare_cr:
            self.refusal = self.hub.bare_cr
        elif scanner.size > self.hub.max_message_bytes:
            self.refusal = self.hub.too_large
        elif piece:
            self.content.take(piece)
        return 0

    cdef int end_message(self) except -1:
        cdef Tally tally = self.hub.tally
        cdef Content content = self.content
        cdef int64_t i
        self.ended = True
        if self.refusal is not None:
            self.say(self.refusal)
        else:
            content.end()
            tally._begin(self.recipients, self.scanner.size, content)
            if content._marked:
                for i in range(self.recipients):
                    tally._add_recipient(content, self.indexes[i])
            self.accepted += 1
            self.say(self.hub.end_reply)
            if self.on_message is not None:
                self.on_message(self.envelope.buffer[:self.envelope.length], self.scanner.size)
        self.begin()
        content.begin()
        return 0
