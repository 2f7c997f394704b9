"""Command lines of an SMTP session: where they end, which verb, and the grammar of paths and parameters.

Promise: never reads outside the buffer (every look goes through a bounded cursor), never splits a line anywhere
but at CR LF, and takes time linear in the line. Nothing here knows what a command means.

How: `scan_command` finds the end of a line with memchr; verbs.pxd knows the verb. `parse_path` and `parse_parameters`
are recursive descent over a cursor that yields -1 at its end, and a table tells which octets may stand where.
Source: RFC 5321 §4.1.1.11, §4.1.2, §4.1.3; RFC 6531 §3.3. tests/reference/command.py is the plain-Python twin.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcpy

from cursor cimport Cursor, advance, peek
from verbs cimport (
    VERB_AUTH, VERB_BDAT, VERB_DATA, VERB_EHLO, VERB_EXPN, VERB_FOREIGN, VERB_HELO, VERB_HELP, VERB_MAIL, VERB_NOOP,
    VERB_QUIT, VERB_RCPT, VERB_RSET, VERB_STARTTLS, VERB_UNKNOWN, VERB_VRFY, VERB_XCLIENT, equals_upper, upper,
    verb_code,
)

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_1BYTE_DATA(str text)

# What `scan_command` found in place of a verb …
INCOMPLETE = -1
BARE_LF = -2
BARE_CR = -3
NUL = -4
# … and the verbs.
UNKNOWN = VERB_UNKNOWN
EHLO = VERB_EHLO
HELO = VERB_HELO
MAIL = VERB_MAIL
RCPT = VERB_RCPT
DATA = VERB_DATA
BDAT = VERB_BDAT
RSET = VERB_RSET
NOOP = VERB_NOOP
QUIT = VERB_QUIT
VRFY = VERB_VRFY
EXPN = VERB_EXPN
HELP = VERB_HELP
STARTTLS = VERB_STARTTLS
AUTH = VERB_AUTH
XCLIENT = VERB_XCLIENT
FOREIGN = VERB_FOREIGN

# RFC 5321 §4.5.3.1.1 says 64, and that longer ones should be accepted where that is possible: VERP and SRS make them.
cdef enum:
    MAX_LOCAL = 512
    MAX_DOMAIN = 255  # RFC 5321 §4.5.3.1.2
    MAX_LABEL = 63  # RFC 1035 §2.3.4

cdef enum:
    ATEXT = 1  # RFC 5322 §3.2.3, and octets of UTF-8 (RFC 6531 §3.3)
    LABEL = 2  # letters, digits, "-", and "_" which hosts do have; octets of UTF-8
    DTEXT = 4  # RFC 5321 §4.1.3: what may be in an address literal
    KEYWORD = 8  # RFC 5321 §4.1.2: letters, digits and "-"
    VALUE = 16  # RFC 5321 §4.1.2: anything but "=", blanks and controls; octets of UTF-8

cdef unsigned char classes[256]  # a sum of these for each octet

for _octet in range(256):
    _alphanumeric = _octet < 128 and chr(_octet).isalnum()
    classes[_octet] = (
        (ATEXT if _alphanumeric or _octet >= 128 or _octet in b"!#$%&'*+-/=?^_`{|}~" else 0)
        | (LABEL if _alphanumeric or _octet >= 128 or _octet in b"-_" else 0)
        | (DTEXT if 33 <= _octet <= 90 or 94 <= _octet <= 126 else 0)
        | (KEYWORD if _alphanumeric or _octet == 45 else 0)
        | (VALUE if (33 <= _octet <= 126 and _octet != 61) or _octet >= 128 else 0)
    )
del _octet, _alphanumeric


cdef inline Py_ssize_t skip(Cursor* cursor, unsigned char octet_class) noexcept nogil:
    """Move behind all octets of that class. Returns how many there were."""
    cdef Py_ssize_t start = cursor.at
    while cursor.at < cursor.end and classes[cursor.p[cursor.at]] & octet_class:
        cursor.at += 1
    return cursor.at - start


cdef inline bint is_ascii(const unsigned char* p, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef unsigned char bits = 0
    cdef Py_ssize_t i
    for i in range(start, stop):
        bits |= p[i]
    return bits < 128

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


cdef const char* take_domain(Cursor* cursor) noexcept nogil:
    """Move behind a domain or an address literal. Returns what is wrong, or NULL."""
    cdef Py_ssize_t start = cursor.at, size
    if peek(cursor) == c'[':
        advance(cursor)
        if skip(cursor, DTEXT) == 0 or peek(cursor) != c']':
            return "bad address literal"
        advance(cursor)
    else:
        while True:
            if peek(cursor) == c'-':
                return "a label of the domain begins with a hyphen"
            size = skip(cursor, LABEL)
            if size == 0:
                return "bad character in the domain, or an empty label"
            if cursor.p[cursor.at - 1] == c'-':
                return "a label of the domain ends with a hyphen"
            if size > MAX_LABEL and is_ascii(cursor.p, cursor.at - size, cursor.at):
                return "a label of the domain is too long"
            if peek(cursor) != c'.':
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
    cdef Py_ssize_t start = cursor.at
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
            if skip(cursor, ATEXT) == 0:
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
    cdef str text
    if is_ascii(p, start, stop):
        text = PyUnicode_New(stop - start, 127)
        memcpy(PyUnicode_1BYTE_DATA(text), p + start, stop - start)
        return text
    utf8[0] = True
    try:
        return PyUnicode_DecodeUTF8(<const char*>p + start, stop - start, "strict")
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None


cdef str capitals_of(const unsigned char* p, Py_ssize_t size):
    cdef str text = PyUnicode_New(size, 127)
    cdef unsigned char* out = <unsigned char*>PyUnicode_1BYTE_DATA(text)
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = upper(p[i])
    return text


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
    cdef Py_ssize_t size
    cdef bint utf8 = False
    cdef list found = []
    cdef str key, value
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
        size = 0 if peek(&cursor) == c'-' else skip(&cursor, KEYWORD)
        if size == 0:
            raise ValueError("bad parameter keyword")
        key = capitals_of(cursor.p + cursor.at - size, size)
        value = None
        if peek(&cursor) == c'=':
            advance(&cursor)
            size = skip(&cursor, VALUE)
            if size == 0:
                raise ValueError(f"{key} has an empty or bad value")
            value = text_of(cursor.p, cursor.at - size, cursor.at, &utf8)
        found.append((key, value))
        if cursor.at < cursor.end and peek(&cursor) != c' ':
            raise ValueError(f"bad character in {key}")
