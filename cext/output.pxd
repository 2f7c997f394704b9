"""What one connection still has to send: a buffer that is written into, and in the midst of it a long body that is not
copied. Zeroed memory is an empty one; `output_free` gives its buffer back.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from sockets cimport MSG_DONTWAIT, MSG_NOSIGNAL, iovec, msghdr, send, sendmsg

cdef enum:
    SENDS_IN_A_ROW = 16  # then the other connections have their turn
    LEAST_BYTES = 4096

cdef enum Flushed:
    ALL_SENT
    SOCKET_FULL
    SEND_FAILED  # errno says why


cdef struct Output:
    # buffer[:split], then the body, then buffer[split:length]; `at` octets of all that have been sent.
    char* buffer
    Py_ssize_t size
    Py_ssize_t length
    Py_ssize_t split
    const char* body
    Py_ssize_t body_length
    Py_ssize_t at


cdef inline void output_free(Output* out) noexcept nogil:
    free(out.buffer)
    memset(out, 0, sizeof(Output))


cdef inline void output_clear(Output* out) noexcept nogil:
    out.length = out.split = out.body_length = out.at = 0
    out.body = NULL


cdef inline Py_ssize_t output_total(const Output* out) noexcept nogil:
    return out.length + out.body_length


cdef inline bint output_waits(const Output* out) noexcept nogil:
    """There is something that has not been sent."""
    return out.at < out.length + out.body_length


cdef inline char* output_reserve(Output* out, Py_ssize_t count) except NULL:
    """Room for so many octets at the end; `output_wrote` says how many of them are used."""
    cdef Py_ssize_t size
    cdef char* grown
    if out.length + count > out.size:
        size = max(2 * out.size, out.length + count, <Py_ssize_t>LEAST_BYTES)
        grown = <char*>realloc(out.buffer, size)
        if grown == NULL:
            raise MemoryError
        out.buffer = grown
        out.size = size
    return out.buffer + out.length


cdef inline void output_wrote(Output* out, Py_ssize_t count) noexcept nogil:
    out.length += count
    if out.body == NULL:
        out.split = out.length


cdef inline int output_append(Output* out, const char* what, Py_ssize_t count) except -1:
    memcpy(output_reserve(out, count), what, count)
    output_wrote(out, count)
    return 0


cdef inline void output_body(Output* out, const char* body, Py_ssize_t count) noexcept nogil:
    """This goes out here, from where it is: it has to stay. One at a time."""
    if count > 0:
        out.body = body
        out.body_length = count


cdef inline const char* output_next(const Output* out, Py_ssize_t* count) noexcept nogil:
    """Where the next octets to send are, and how many of them lie together."""
    if out.at < out.split:
        count[0] = out.split - out.at
        return out.buffer + out.at
    if out.at < out.split + out.body_length:
        count[0] = out.split + out.body_length - out.at
        return out.body + (out.at - out.split)
    count[0] = out.length + out.body_length - out.at
    return out.buffer + (out.at - out.body_length)


cdef inline ssize_t _send_parts(const Output* out, int fd) noexcept nogil:
    cdef iovec[3] parts
    cdef msghdr message
    cdef size_t skipped = out.at
    cdef int first = 0
    parts[0].iov_base = out.buffer
    parts[0].iov_len = out.split
    parts[1].iov_base = <void*>out.body
    parts[1].iov_len = out.body_length
    parts[2].iov_base = out.buffer + out.split
    parts[2].iov_len = out.length - out.split
    while first < 2 and skipped >= parts[first].iov_len:
        skipped -= parts[first].iov_len
        first += 1
    parts[first].iov_base = <char*>parts[first].iov_base + skipped
    parts[first].iov_len -= skipped
    memset(&message, 0, sizeof(message))
    message.msg_iov = &parts[first]
    message.msg_iovlen = 3 - first
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)


cdef inline Flushed output_flush(Output* out, int fd) noexcept nogil:
    """Send what the socket takes. `out.at` tells how far it came; nothing is forgotten before `output_clear`."""
    cdef ssize_t count
    cdef int sends = 0
    while output_waits(out):
        if sends == SENDS_IN_A_ROW:
            return SOCKET_FULL
        sends += 1
        if out.body == NULL:
            count = send(fd, out.buffer + out.at, out.length - out.at, MSG_NOSIGNAL | MSG_DONTWAIT)
        else:
            count = _send_parts(out, fd)
        if count >= 0:
            out.at += count
        elif errno == EAGAIN:
            return SOCKET_FULL
        elif errno != EINTR:
            return SEND_FAILED
    return ALL_SENT
