"""The commands of ordinary mail in their plainest form, for the sink: whole groups of them in one call.

Promise: what `Express.scan` takes, `smtp.server.Server` would take with the same meaning; what it does not know it
leaves alone, for the Server to say. It never reads outside the buffer, and never splits a line anywhere but at CR LF.

How: a line is plain if it is byte for byte one of

    MAIL FROM:<dot-atom@domain>   or <>, then SIZE=… and BODY=7BIT or 8BITMIME at most
    RCPT TO:<dot-atom@domain>     then ORCPT=rfc822;… at most
    DATA
    BDAT octets LAST

verbs in capitals, domains in small letters, nothing beyond ASCII; and if it is its turn. Lines are kept while their
transaction has not come to its content, so that the Server can be told of them when something else follows.
Source: the grammar is that of cext/command.pyx, narrowed. The Server is the oracle in tests/component/test_sink_express.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memchr, memcmp

cdef enum:
    MORE_ = 0
    DATA_ = 1
    CHUNK_ = 2
    STRANGE_ = 3

# What `scan` ends with.
MORE = MORE_  # the buffer is used up, or what is left is not a whole line
DATA = DATA_  # content follows, with dots
CHUNK = CHUNK_  # `chunk_bytes` octets of content follow
STRANGE = STRANGE_  # a line that is not plain begins at `position`

cdef enum:
    READY
    IN_MAIL
    IN_RCPT

cdef enum:
    MAX_LINE = 1000  # less than the Server takes
    MAX_LOCAL = 512  # these three as in command.pyx
    MAX_DOMAIN = 255
    MAX_LABEL = 63
    MAX_ORCPT = 300
    MAX_DIGITS = 18  # fits into 63 bits

cdef enum:
    ATEXT = 1
    LABEL = 2
    XTEXT = 4

cdef unsigned char KIND[256]


def _fill():
    cdef int c
    for c in range(256):
        KIND[c] = 0
    for c in b"abcdefghijklmnopqrstuvwxyz0123456789":
        KIND[c] = ATEXT | LABEL | XTEXT
    for c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        KIND[c] = ATEXT | XTEXT
    for c in b"!#$%&'*/?^`{|}~":
        KIND[c] = ATEXT
    KIND[c"+"] = KIND[c"="] = ATEXT
    KIND[c"_"] = KIND[c"-"] = ATEXT | LABEL | XTEXT
    KIND[c"."] = KIND[c"@"] = XTEXT


_fill()


cdef Py_ssize_t address_end(const unsigned char* p, Py_ssize_t size) noexcept nogil:
    """The offset of the ">" behind a plain address at `p`, -1 if there is none."""
    cdef Py_ssize_t i = 0, part = 0, domain
    while True:
        while i < size and KIND[p[i]] & ATEXT:
            i += 1
        if i == part or i == size or i > MAX_LOCAL:
            return -1
        if p[i] == c"@":
            break
        if p[i] != c".":
            return -1
        i += 1
        part = i
    i += 1
    domain = part = i
    while True:
        while i < size and KIND[p[i]] & LABEL:
            i += 1
        if i == part or i == size or i - part > MAX_LABEL or i - domain > MAX_DOMAIN:
            return -1
        if p[part] == c"-" or p[i - 1] == c"-":
            return -1
        if p[i] == c">":
            return i
        if p[i] != c".":
            return -1
        i += 1
        part = i


cdef long long number(const unsigned char* p, Py_ssize_t size, Py_ssize_t* end) noexcept nogil:
    """The decimal number at `p`; `end` becomes the offset behind it. -1 if there is none, or a long one."""
    cdef Py_ssize_t i = 0
    cdef long long value = 0
    while i < size and c"0" <= p[i] <= c"9":
        if i == MAX_DIGITS:
            return -1
        value = value * 10 + (p[i] - c"0")
        i += 1
    end[0] = i
    return value if i else -1


cdef class Express:
    """The envelope of one transaction after the other.

    Args:
        replies: what to say to MAIL, RCPT, DATA and the end of a message.
        max_message_bytes, max_recipients: what is beyond is not plain.

    Attributes:
        position: where in the buffer `scan` stopped.
        reverse_path, recipients: of the transaction, as `smtp.server_events` has them.
        chunk_bytes: see CHUNK.
    """

    cdef int state
    cdef bytes mail_reply
    cdef bytes rcpt_reply
    cdef bytes data_reply
    cdef bytes end_reply
    cdef list out
    cdef list lines
    cdef readonly list recipients
    cdef readonly str reverse_path
    cdef readonly Py_ssize_t position
    cdef readonly long long chunk_bytes
    cdef long long max_message_bytes
    cdef Py_ssize_t max_recipients
    cdef bint sizes
    cdef bint dsn
    cdef bint chunking

    def __init__(self, tuple replies not None, *, long long max_message_bytes, Py_ssize_t max_recipients):
        self.mail_reply, self.rcpt_reply, self.data_reply, self.end_reply = replies
        self.max_message_bytes = max_message_bytes
        self.max_recipients = max_recipients
        self.out = []
        self.begin()

    def offer(self, bint sizes, bint dsn, bint chunking):
        """What the client may use: parameters of MAIL, ORCPT, BDAT."""
        self.sizes = sizes
        self.dsn = dsn
        self.chunking = chunking

    cdef void begin(self):
        self.state = READY
        self.lines = []
        self.recipients = []
        self.reverse_path = ""

    def say(self, bytes reply not None):
        """Add a reply to the output, and be ready for the next transaction."""
        self.out.append(reply)
        self.begin()

    def accept(self):
        """The message has ended and is taken."""
        self.out.append(self.end_reply)
        self.begin()

    def take_output(self):
        """All replies since the last call."""
        cdef list out = self.out
        if not out:
            return b""
        if len(out) == 1:
            return out.pop()
        self.out = []
        return b"".join(out)

    def give_up(self):
        """The lines of the transaction so far, which is not ours any more."""
        cdef bytes envelope = b"".join(self.lines)
        self.begin()
        return envelope

    def scan(self, bytes buffer not None, Py_ssize_t start):
        """Take the commands in buffer[start:].

        Returns:
            MORE, DATA, CHUNK or STRANGE; `position` is behind what was used up.
        """
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(buffer)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(buffer), lf, at = start
        cdef const unsigned char* hit
        cdef int found
        if not 0 <= start <= size:
            raise IndexError("start is outside the buffer")
        while at < size:
            self.position = at
            hit = <const unsigned char*>memchr(p + at, c"\n", size - at)
            if hit == NULL:
                # Only what may become a plain line can wait for its end.
                if size - at > MAX_LINE or not (p[at] == c"M" or p[at] == c"R" or p[at] == c"D" or p[at] == c"B"):
                    return STRANGE_
                return MORE_
            lf = hit - p
            if lf == at or p[lf - 1] != c"\r" or lf - at > MAX_LINE:
                return STRANGE_
            found = self.take(p + at, lf - 1 - at)
            if found == STRANGE_:
                return STRANGE_
            if found != MORE_:
                self.position = lf + 1
                return found
            self.lines.append(buffer[at:lf + 1])
            at = lf + 1
        self.position = at
        return MORE_

    cdef int take(self, const unsigned char* p, Py_ssize_t size):
        """One line without its CR LF."""
        if self.state == READY:
            return self.take_mail(p, size)
        if size > 9 and memcmp(p, b"RCPT TO:<", 9) == 0:
            return self.take_rcpt(p + 9, size - 9)
        if self.state != IN_RCPT:
            return STRANGE_
        if size == 4 and memcmp(p, b"DATA", 4) == 0:
            self.out.append(self.data_reply)
            return DATA_
        if size > 5 and self.chunking and memcmp(p, b"BDAT ", 5) == 0:
            return self.take_bdat(p + 5, size - 5)
        return STRANGE_

    cdef int take_mail(self, const unsigned char* p, Py_ssize_t size):
        cdef Py_ssize_t end, digits, i
        cdef long long announced
        cdef bint sized = False, typed = False
        if size < 12 or memcmp(p, b"MAIL FROM:<", 11) != 0:
            return STRANGE_
        p += 11
        size -= 11
        end = 0 if p[0] == c">" else address_end(p, size)
        if end < 0:
            return STRANGE_
        i = end + 1
        while i < size:
            if not self.sizes:
                return STRANGE_
            if not sized and size - i > 6 and memcmp(p + i, b" SIZE=", 6) == 0:
                i += 6
                announced = number(p + i, size - i, &digits)
                if not 0 <= announced <= self.max_message_bytes:
                    return STRANGE_
                i += digits
                sized = True
            elif not typed and size - i >= 10 and memcmp(p + i, b" BODY=7BIT", 10) == 0:
                i += 10
                typed = True
            elif not typed and size - i >= 14 and memcmp(p + i, b" BODY=8BITMIME", 14) == 0:
                i += 14
                typed = True
            else:
                return STRANGE_
            if i < size and p[i] != c" ":
                return STRANGE_
        self.reverse_path = PyUnicode_DecodeASCII(<const char*>p, end, NULL)
        self.out.append(self.mail_reply)
        self.state = IN_MAIL
        return MORE_

    cdef int take_rcpt(self, const unsigned char* p, Py_ssize_t size):
        cdef Py_ssize_t end = address_end(p, size), i
        if end < 0 or len(self.recipients) >= self.max_recipients:
            return STRANGE_
        i = end + 1
        if i < size:
            if not self.dsn or size - i <= 14 or size - i > MAX_ORCPT or memcmp(p + i, b" ORCPT=rfc822;", 14) != 0:
                return STRANGE_
            i += 14
            while i < size:
                if not KIND[p[i]] & XTEXT:
                    return STRANGE_
                i += 1
        self.recipients.append(PyUnicode_DecodeASCII(<const char*>p, end, NULL))
        self.out.append(self.rcpt_reply)
        self.state = IN_RCPT
        return MORE_

    cdef int take_bdat(self, const unsigned char* p, Py_ssize_t size):
        cdef Py_ssize_t digits = 0
        cdef long long octets = number(p, size, &digits)
        if octets < 0 or octets > self.max_message_bytes or size - digits != 5 or memcmp(p + digits, b" LAST", 5) != 0:
            return STRANGE_
        self.chunk_bytes = octets
        return CHUNK_
