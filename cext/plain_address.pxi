# Addresses and numbers in their plainest form. Included by server_lane.pyx.

cdef enum:
    MAX_LOCAL = 512  # these three as in command.pyx
    MAX_DOMAIN = 255
    MAX_LABEL = 63
    MAX_DIGITS = 18  # fits into 63 bits

cdef enum:
    ATEXT = 1
    LABEL = 2

cdef unsigned char KIND[256]


def _fill():
    cdef int c
    for c in range(256):
        KIND[c] = 0
    for c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-":
        KIND[c] = ATEXT | LABEL
    for c in b"!#$%&'*+/=?^`{|}~":
        KIND[c] = ATEXT


_fill()


cdef Py_ssize_t address_end(const unsigned char* p, Py_ssize_t size, Py_ssize_t* at_sign) noexcept nogil:
    """The offset of the ">" behind a plain address at `p`, -1 if there is none; and where its "@" is."""
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
    at_sign[0] = i
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


cdef str address_of(const unsigned char* p, Py_ssize_t at_sign, Py_ssize_t end):
    """The text of what `address_end` found, the domain in small letters."""
    cdef str text = PyUnicode_New(end, 127)
    cdef unsigned char* out = <unsigned char*>PyUnicode_1BYTE_DATA(text)
    cdef Py_ssize_t i
    memcpy(out, p, at_sign + 1)
    for i in range(at_sign + 1, end):
        out[i] = p[i] + 32 if c"A" <= p[i] <= c"Z" else p[i]
    return text


cdef int64_t number(const unsigned char* p, Py_ssize_t size, Py_ssize_t* end) noexcept nogil:
    """The decimal number at `p`; `end` becomes how many digits it has. -1 if there is none, or a long one."""
    cdef Py_ssize_t i = 0
    cdef int64_t value = 0
    while i < size and c"0" <= p[i] <= c"9":
        if i == MAX_DIGITS:
            return -1
        value = value * 10 + (p[i] - c"0")
        i += 1
    end[0] = i
    return value if i else -1
