"""Verbs of SMTP, told by their octets in any case.

Four octets are packed into one integer to compare them all at once, as nearly every verb has four.
"""

from libc.string cimport memchr

cdef enum:
    # What `verb_code` gives; kernels.command has the same names without VERB_.
    VERB_UNKNOWN = 0
    VERB_EHLO = 1
    VERB_HELO = 2
    VERB_MAIL = 3
    VERB_RCPT = 4
    VERB_DATA = 5
    VERB_BDAT = 6
    VERB_RSET = 7
    VERB_NOOP = 8
    VERB_QUIT = 9
    VERB_VRFY = 10
    VERB_EXPN = 11
    VERB_HELP = 12
    VERB_STARTTLS = 13
    VERB_AUTH = 14
    VERB_XCLIENT = 15
    VERB_FOREIGN = 16

cdef extern from *:
    """
    #define POSTROIKA_WORD4(a, b, c, d) \
        (((unsigned int)(a) << 24) | ((unsigned int)(b) << 16) | ((unsigned int)(c) << 8) | (unsigned int)(d))
    """
    unsigned int WORD4 "POSTROIKA_WORD4"(unsigned char a, unsigned char b, unsigned char c, unsigned char d) nogil


cdef inline unsigned char upper(unsigned char c) noexcept nogil:
    return c - 32 if c'a' <= c <= c'z' else c


cdef inline bint equals_upper(
    const unsigned char* text, Py_ssize_t size, const char* word, Py_ssize_t word_size
) noexcept nogil:
    """Whether `text` in capitals is `word`."""
    cdef Py_ssize_t i
    if size != word_size:
        return False
    for i in range(size):
        if upper(text[i]) != <unsigned char>word[i]:
            return False
    return True


cdef inline int foreign(const unsigned char* verb, Py_ssize_t size) noexcept nogil:
    """FOREIGN for what no mail client sends as a command: an HTTP method, or a header field (a body that is sent
    although DATA was refused begins with those). Otherwise UNKNOWN."""
    if size > 1 and memchr(verb + 1, c':', size - 1) != NULL:
        return VERB_FOREIGN
    if (
        equals_upper(verb, size, "GET", 3) or equals_upper(verb, size, "PUT", 3) or equals_upper(verb, size, "PRI", 3)
        or equals_upper(verb, size, "POST", 4) or equals_upper(verb, size, "HEAD", 4)
        or equals_upper(verb, size, "PATCH", 5) or equals_upper(verb, size, "TRACE", 5)
        or equals_upper(verb, size, "DELETE", 6) or equals_upper(verb, size, "CONNECT", 7)
        or equals_upper(verb, size, "OPTIONS", 7)
    ):
        return VERB_FOREIGN
    return VERB_UNKNOWN


cdef inline int verb_code(const unsigned char* verb, Py_ssize_t size) noexcept nogil:
    """The code of a verb in any case; UNKNOWN or FOREIGN."""
    cdef unsigned int word
    if size == 4:
        word = WORD4(upper(verb[0]), upper(verb[1]), upper(verb[2]), upper(verb[3]))
        if word == WORD4(c'R', c'C', c'P', c'T'):
            return VERB_RCPT
        if word == WORD4(c'M', c'A', c'I', c'L'):
            return VERB_MAIL
        if word == WORD4(c'D', c'A', c'T', c'A'):
            return VERB_DATA
        if word == WORD4(c'B', c'D', c'A', c'T'):
            return VERB_BDAT
        if word == WORD4(c'E', c'H', c'L', c'O'):
            return VERB_EHLO
        if word == WORD4(c'H', c'E', c'L', c'O'):
            return VERB_HELO
        if word == WORD4(c'R', c'S', c'E', c'T'):
            return VERB_RSET
        if word == WORD4(c'N', c'O', c'O', c'P'):
            return VERB_NOOP
        if word == WORD4(c'Q', c'U', c'I', c'T'):
            return VERB_QUIT
        if word == WORD4(c'V', c'R', c'F', c'Y'):
            return VERB_VRFY
        if word == WORD4(c'E', c'X', c'P', c'N'):
            return VERB_EXPN
        if word == WORD4(c'H', c'E', c'L', c'P'):
            return VERB_HELP
        if word == WORD4(c'A', c'U', c'T', c'H'):
            return VERB_AUTH
    elif size == 8 and equals_upper(verb, size, "STARTTLS", 8):
        return VERB_STARTTLS
    elif size == 7 and equals_upper(verb, size, "XCLIENT", 7):
        return VERB_XCLIENT
    return foreign(verb, size)
