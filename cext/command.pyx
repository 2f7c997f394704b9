"""Command lines of an SMTP session: where they end, which verb, and the grammar of paths and parameters.

Promise: never reads outside the buffer (every look goes through a bounded cursor), never splits a line anywhere
but at CR LF, and takes time linear in the line. Nothing here knows what a command means.

How: `scan_command` finds the end of a line with memchr and packs the verb into one integer to compare it;
`parse_path` and `parse_parameters` are recursive descent over a cursor that yields -1 at its end.
Source: RFC 5321 §4.1.1.11, §4.1.2, §4.1.3; RFC 6531 §3.3. tests/reference/command.py is the plain-Python twin.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr

from cursor cimport Cursor, advance, peek

# What `scan_command` found in place of a verb …
INCOMPLETE = -1
BARE_LF = -2
BARE_CR = -3
NUL = -4
# … and the verbs.
UNKNOWN = 0
EHLO = 1
HELO = 2
MAIL = 3
RCPT = 4
DATA = 5
BDAT = 6
RSET = 7
NOOP = 8
QUIT = 9
VRFY = 10
EXPN = 11
HELP = 12
STARTTLS = 13
AUTH = 14
FOREIGN = 15

# RFC 5321 §4.5.3.1.1 says 64, and that longer ones should be accepted where that is possible: VERP and SRS make them.
cdef enum:
    MAX_LOCAL = 512
    MAX_DOMAIN = 255  # RFC 5321 §4.5.3.1.2
    MAX_LABEL = 63  # RFC 1035 §2.3.4

cdef extern from *:
    """
    #define POSTROIKA_WORD4(a, b, c, d) \
        (((unsigned int)(a) << 24) | ((unsigned int)(b) << 16) | ((unsigned int)(c) << 8) | (unsigned int)(d))
    """
    unsigned int WORD4 "POSTROIKA_WORD4"(unsigned char a, unsigned char b, unsigned char c, unsigned char d) nogil


cdef inline unsigned char upper(unsigned char c) noexcept nogil:
    return c - 32 if c'a' <= c <= c'z' else c


cdef bint equals_upper(const unsigned char* text, Py_ssize_t size, const char* word, Py_ssize_t word_size) noexcept nogil:
    """Whether `text` in capitals is `word`."""
    cdef Py_ssize_t i
    if size != word_size:
        return False
    for i in range(size):
        if upper(text[i]) != <unsigned char>word[i]:
            return False
    return True


cdef int foreign(const unsigned char* verb, Py_ssize_t size) noexcept nogil:
    """FOREIGN for what no mail client sends as a command: an HTTP method, or a header field (a body that is sent
    although DATA was refused begins with those). Otherwise UNKNOWN."""
    if size > 1 and memchr(verb + 1, c':', size - 1) != NULL:
        return 15
    if (
        equals_upper(verb, size, "GET", 3) or equals_upper(verb, size, "PUT", 3) or equals_upper(verb, size, "PRI", 3)
        or equals_upper(verb, size, "POST", 4) or equals_upper(verb, size, "HEAD", 4)
        or equals_upper(verb, size, "PATCH", 5) or equals_upper(verb, size, "TRACE", 5)
        or equals_upper(verb, size, "DELETE", 6) or equals_upper(verb, size, "CONNECT", 7)
        or equals_upper(verb, size, "OPTIONS", 7)
    ):
        return 15
    return 0


cdef int verb_code(const unsigned char* verb, Py_ssize_t size) noexcept nogil:
    """The code of a verb in any case; UNKNOWN or FOREIGN."""
    cdef unsigned int word
    if size == 4:
        word = WORD4(upper(verb[0]), upper(verb[1]), upper(verb[2]), upper(verb[3]))
        if word == WORD4(c'R', c'C', c'P', c'T'):
            return 4
        if word == WORD4(c'M', c'A', c'I', c'L'):
            return 3
        if word == WORD4(c'D', c'A', c'T', c'A'):
            return 5
        if word == WORD4(c'B', c'D', c'A', c'T'):
            return 6
        if word == WORD4(c'E', c'H', c'L', c'O'):
            return 1
        if word == WORD4(c'H', c'E', c'L', c'O'):
            return 2
        if word == WORD4(c'R', c'S', c'E', c'T'):
            return 7
        if word == WORD4(c'N', c'O', c'O', c'P'):
            return 8
        if word == WORD4(c'Q', c'U', c'I', c'T'):
            return 9
        if word == WORD4(c'V', c'R', c'F', c'Y'):
            return 10
        if word == WORD4(c'E', c'X', c'P', c'N'):
            return 11
        if word == WORD4(c'H', c'E', c'L', c'P'):
            return 12
        if word == WORD4(c'A', c'U', c'T', c'H'):
            return 14
    elif size == 8 and equals_upper(verb, size, "STARTTLS", 8):
        return 13
    return foreign(verb, size)


def scan_command(bytes buffer not None, Py_ssize_t start, bint lf_ends):
    """Take one command line off `buffer` from `start`.

    Args:
        lf_ends: a bare LF ends a line like CR LF (for trusted networks only).

    Returns:
        (code, argument, next): a verb's code with its argument (blanks around it removed) and the offset behind
        the line; or one of
        INCOMPLETE (no end of line yet), BARE_LF (`next` is behind that LF, the line is not over), BARE_CR and NUL
        (the line is complete, and has one), with an empty argument.
    """
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(buffer)
    cdef const unsigned char* hit
    cdef Py_ssize_t lf, stop, behind_verb
    cdef int code
    if start < 0 or start > size:
        raise IndexError("start is outside the buffer")
    if start == size:
        return INCOMPLETE, b"", start
    if p[start] == 0x16:  # the first octet of a TLS ClientHello, which need not have a line end
        return FOREIGN, b"", size
    hit = <const unsigned char*>memchr(p + start, c'\n', size - start)
    if hit == NULL:
        return INCOMPLETE, b"", start
    lf = hit - p
    if lf > start and p[lf - 1] == c'\r':
        stop = lf - 1
    elif lf_ends:
        stop = lf
    else:
        return BARE_LF, b"", lf + 1
    if memchr(p + start, 0, stop - start) != NULL:
        return NUL, b"", lf + 1
    if memchr(p + start, c'\r', stop - start) != NULL:
        return BARE_CR, b"", lf + 1
    behind_verb = start
    while behind_verb < stop and p[behind_verb] != c' ' and p[behind_verb] != c'\t':
        behind_verb += 1
    code = verb_code(p + start, behind_verb - start)
    while behind_verb < stop and (p[behind_verb] == c' ' or p[behind_verb] == c'\t'):
        behind_verb += 1
    while stop > behind_verb and (p[stop - 1] == c' ' or p[stop - 1] == c'\t'):
        stop -= 1
    return code, PyBytes_FromStringAndSize(<const char*>p + behind_verb, stop - behind_verb), lf + 1


def find_line_end(bytes buffer not None, Py_ssize_t start):
    """Skip the rest of a line.

    Returns:
        (next, lf): the offset behind the first CR LF, or -1 if there is none; and how many bare LF come before it
        (or before the end of the buffer).
    """
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(buffer)
    cdef const unsigned char* hit
    cdef Py_ssize_t lf, at = start, bare = 0
    if start < 0 or start > size:
        raise IndexError("start is outside the buffer")
    while True:
        hit = <const unsigned char*>memchr(p + at, c'\n', size - at)
        if hit == NULL:
            return -1, bare
        lf = hit - p
        if lf > start and p[lf - 1] == c'\r':
            return lf + 1, bare
        bare += 1
        at = lf + 1


cdef class Path:
    """A forward-path or reverse-path, its source route taken off.

    `local` is as given, quotes included; `domain` as given, with the brackets of an address literal, "" where there
    is none; both are "" for `<>`. `end` is the offset in the argument behind ">".
    """

    cdef readonly str local
    cdef readonly str domain
    cdef readonly bint routed
    cdef readonly bint utf8
    cdef readonly Py_ssize_t end

    def __repr__(self):
        return f"Path({self.local!r}, {self.domain!r}, routed={self.routed}, utf8={self.utf8}, end={self.end})"


cdef inline bint is_atext(int c) noexcept nogil:
    """RFC 5322 §3.2.3 atext, and octets of UTF-8 (RFC 6531 §3.3)."""
    if c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9' or c >= 128:
        return True
    return (
        c == c'!' or c == c'#' or c == c'$' or c == c'%' or c == c'&' or c == c"'" or c == c'*' or c == c'+'
        or c == c'-' or c == c'/' or c == c'=' or c == c'?' or c == c'^' or c == c'_' or c == c'`' or c == c'{'
        or c == c'|' or c == c'}' or c == c'~'
    )


cdef inline bint is_label(int c) noexcept nogil:
    """Letters, digits, "-", and "_" which hosts do have; octets of UTF-8."""
    return (
        c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9' or c == c'-' or c == c'_' or c >= 128
    )


cdef const char* take_domain(Cursor* cursor) noexcept nogil:
    """Move behind a domain or an address literal. Returns what is wrong, or NULL."""
    cdef Py_ssize_t start = cursor.at, label
    cdef int c
    cdef bint ascii_label
    if peek(cursor) == c'[':
        advance(cursor)
        c = peek(cursor)
        while 33 <= c <= 90 or 94 <= c <= 126:
            advance(cursor)
            c = peek(cursor)
        if c != c']' or cursor.at == start + 1:
            return "bad address literal"
        advance(cursor)
    else:
        while True:
            label = cursor.at
            ascii_label = True
            c = peek(cursor)
            if c == c'-':
                return "a label of the domain begins with a hyphen"
            while is_label(c):
                if c >= 128:
                    ascii_label = False
                advance(cursor)
                c = peek(cursor)
            if cursor.at == label:
                return "bad character in the domain, or an empty label"
            if cursor.p[cursor.at - 1] == c'-':
                return "a label of the domain ends with a hyphen"
            if ascii_label and cursor.at - label > MAX_LABEL:
                return "a label of the domain is too long"
            if c != c'.':
                break
            advance(cursor)
    if cursor.at - start > MAX_DOMAIN:
        return "the domain is too long"
    return NULL


cdef const char* take_route(Cursor* cursor) noexcept nogil:
    """Move behind a source route "@a,@b:" (RFC 5321 §4.1.2 A-d-l). Returns what is wrong, or NULL."""
    cdef const char* wrong
    while True:
        if peek(cursor) != c'@':
            return "bad source route"
        advance(cursor)
        wrong = take_domain(cursor)
        if wrong != NULL:
            return wrong
        if peek(cursor) == c':':
            advance(cursor)
            return NULL
        if peek(cursor) != c',':
            return "bad source route"
        advance(cursor)


cdef const char* take_local(Cursor* cursor) noexcept nogil:
    """Move behind a local part, a dot-string or a quoted string. Returns what is wrong, or NULL."""
    cdef Py_ssize_t start = cursor.at, atom
    cdef int c
    if peek(cursor) == c'"':
        advance(cursor)
        while True:
            c = peek(cursor)
            if c == c'"':
                advance(cursor)
                break
            if c == c'\\':
                advance(cursor)
                c = peek(cursor)
                if not 32 <= c <= 126:
                    return "bad quoted pair in the local part"
            elif not (32 <= c <= 126 or c >= 128):
                return "quoted local part not closed"
            advance(cursor)
    else:
        while True:
            atom = cursor.at
            while is_atext(peek(cursor)):
                advance(cursor)
            if cursor.at == atom:
                return "bad character in the local part, or an empty atom"
            if peek(cursor) != c'.':
                break
            advance(cursor)
    if cursor.at - start > MAX_LOCAL:
        return "the local part is too long"
    return NULL


cdef str text_of(const unsigned char* p, Py_ssize_t start, Py_ssize_t stop, bint* utf8):
    """Decoded text; sets `utf8` if any of it is not ASCII.

    Raises:
        ValueError: not UTF-8.
    """
    cdef Py_ssize_t i
    for i in range(start, stop):
        if p[i] >= 128:
            utf8[0] = True
            break
    try:
        return PyUnicode_DecodeUTF8(<const char*>p + start, stop - start, "strict")
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None


def parse_path(bytes argument not None, bytes keyword not None):
    """The path in the argument of MAIL (`keyword` b"FROM:") or RCPT (b"TO:").

    Blanks between the colon and "<" are allowed, as everyone does.

    Returns:
        the Path; None where the keyword or "<" is missing.

    Raises:
        ValueError: not a path; the text says why, in words for the peer.
    """
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(argument)
    cdef Cursor cursor
    cdef Path path
    cdef bint utf8 = False
    cdef const char* wrong = NULL
    cdef Py_ssize_t local_start, local_stop, domain_start, domain_stop
    cdef Py_ssize_t keyword_size = PyBytes_GET_SIZE(keyword)
    cursor.p = p
    cursor.at = keyword_size
    cursor.end = PyBytes_GET_SIZE(argument)
    if cursor.end < keyword_size or not equals_upper(p, keyword_size, PyBytes_AS_STRING(keyword), keyword_size):
        return None
    while peek(&cursor) == c' ':
        advance(&cursor)
    if peek(&cursor) != c'<':
        return None
    advance(&cursor)
    path = Path.__new__(Path)
    path.local = path.domain = ""
    if peek(&cursor) != c'>':
        if peek(&cursor) == c'@':
            path.routed = True
            wrong = take_route(&cursor)
        local_start = cursor.at
        if wrong == NULL:
            wrong = take_local(&cursor)
        local_stop = domain_start = domain_stop = cursor.at
        if wrong == NULL and peek(&cursor) == c'@':
            advance(&cursor)
            domain_start = cursor.at
            wrong = take_domain(&cursor)
            domain_stop = cursor.at
        if wrong == NULL and peek(&cursor) != c'>':
            wrong = "the path is not closed by >, or has a bad character"
        if wrong != NULL:
            raise ValueError(wrong.decode("ascii"))
        path.local = text_of(p, local_start, local_stop, &utf8)
        path.domain = text_of(p, domain_start, domain_stop, &utf8)
        path.utf8 = utf8
    advance(&cursor)
    if cursor.at < cursor.end and peek(&cursor) != c' ':
        raise ValueError("characters behind >")
    path.end = cursor.at
    return path


def parse_parameters(bytes argument not None, Py_ssize_t start):
    """The ESMTP parameters that follow a path: " KEY=value KEY2".

    Returns:
        [(keyword in capitals, value or None), …] in order.

    Raises:
        ValueError: bad syntax; the text says why.
    """
    cdef Cursor cursor
    cdef Py_ssize_t key_start, key_stop, value_start
    cdef int c
    cdef bint utf8 = False
    cdef list found = []
    cursor.p = <const unsigned char*>PyBytes_AS_STRING(argument)
    cursor.at = start
    cursor.end = PyBytes_GET_SIZE(argument)
    if start < 0 or start > cursor.end:
        raise IndexError("start is outside the argument")
    while True:
        while peek(&cursor) == c' ':
            advance(&cursor)
        if cursor.at == cursor.end:
            return found
        key_start = cursor.at
        c = peek(&cursor)
        while c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9' or (c == c'-' and cursor.at > key_start):
            advance(&cursor)
            c = peek(&cursor)
        key_stop = cursor.at
        if key_stop == key_start:
            raise ValueError("bad parameter keyword")
        key = text_of(cursor.p, key_start, key_stop, &utf8).upper()
        if c == c'=':
            advance(&cursor)
            value_start = cursor.at
            c = peek(&cursor)
            while (33 <= c <= 126 and c != c'=') or c >= 128:
                advance(&cursor)
                c = peek(&cursor)
            if cursor.at == value_start:
                raise ValueError(f"{key} has an empty or bad value")
            found.append((key, text_of(cursor.p, value_start, cursor.at, &utf8)))
        else:
            found.append((key, None))
        if cursor.at < cursor.end and c != c' ':
            raise ValueError(f"bad character in {key}")
