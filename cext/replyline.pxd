"""Reply lines of an SMTP server out of bytes that are cut anywhere, without an object for each. Zeroed memory is a
scanner that has seen nothing. Source: RFC 5321 §4.2.
"""

from libc.string cimport memchr, memcpy

cdef enum:
    KEPT_BYTES = 256  # of a line; the rest is of no use to whoever counts
    MAX_LINE_BYTES = 64 * 1024

cdef enum:
    # What `reply_line` gives for a line that is no reply, or goes on too long; and where no line has ended.
    NOT_A_REPLY = -1
    UNFINISHED = 0


cdef struct ReplyLine:
    Py_ssize_t kept
    Py_ssize_t length
    bint ended
    bint last  # of its reply
    char[KEPT_BYTES] text


cdef inline int reply_line(ReplyLine* line, const char** at, const char* end) noexcept nogil:
    """The code of the next line, with `at` moved behind it; `line` has its text until the next call."""
    cdef const char* newline
    cdef Py_ssize_t length, kept
    cdef int code = 0, i
    if line.ended:
        line.kept = line.length = 0
        line.ended = False
    newline = <const char*>memchr(at[0], c"\n", end - at[0])
    length = (newline if newline != NULL else end) - at[0]
    kept = length if length < KEPT_BYTES - line.kept else KEPT_BYTES - line.kept
    memcpy(line.text + line.kept, at[0], kept)
    line.kept += kept
    line.length += length
    if newline == NULL:
        at[0] = end
        return UNFINISHED if line.length <= MAX_LINE_BYTES else NOT_A_REPLY
    at[0] = newline + 1
    line.ended = True
    if line.kept > 0 and line.text[line.kept - 1] == c"\r":
        line.kept -= 1
    if line.kept < 3:
        return NOT_A_REPLY
    for i in range(3):
        if not c"0" <= line.text[i] <= c"9":
            return NOT_A_REPLY
        code = code * 10 + (line.text[i] - c"0")
    if not 200 <= code < 600 or (line.kept > 3 and line.text[3] not in (c" ", c"-", c"\t")):
        return NOT_A_REPLY
    line.last = line.kept == 3 or line.text[3] != c"-"
    return code
