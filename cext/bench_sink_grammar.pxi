# Addresses, numbers and parameters in their plainest form. Included by bench_sink.pyx.

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


cdef int64_t number(const unsigned char* p, Py_ssize_t size, Py_ssize_t* end) noexcept nogil:
    """The decimal number at `p`; `end` becomes the offset behind it. -1 if there is none, or a long one."""
    cdef Py_ssize_t i = 0
    cdef int64_t value = 0
    while i < size and c"0" <= p[i] <= c"9":
        if i == MAX_DIGITS:
            return -1
        value = value * 10 + (p[i] - c"0")
        i += 1
    end[0] = i
    return value if i else -1


cdef bint plain_parameters(const unsigned char* p, Py_ssize_t size, int64_t max_octets) noexcept nogil:
    """Whether a MAIL goes on with SIZE of at most `max_octets` and BODY=7BIT or 8BITMIME, each once at most."""
    cdef Py_ssize_t i = 0, digits = 0
    cdef int64_t announced
    cdef bint sized = False, typed = False
    while i < size:
        if not sized and size - i > 6 and memcmp(p + i, b" SIZE=", 6) == 0:
            i += 6
            announced = number(p + i, size - i, &digits)
            if not 0 <= announced <= max_octets:
                return False
            i += digits
            sized = True
        elif not typed and size - i >= 10 and memcmp(p + i, b" BODY=7BIT", 10) == 0:
            i += 10
            typed = True
        elif not typed and size - i >= 14 and memcmp(p + i, b" BODY=8BITMIME", 14) == 0:
            i += 14
            typed = True
        else:
            return False
        if i < size and p[i] != c" ":
            return False
    return True
