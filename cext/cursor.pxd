"""A cursor that cannot leave its buffer: the only way in which the grammar kernels look at bytes."""


cdef struct Cursor:
    const unsigned char* p
    Py_ssize_t at
    Py_ssize_t end


cdef inline int peek(const Cursor* cursor) noexcept nogil:
    """The octet under the cursor, -1 at the end."""
    return cursor.p[cursor.at] if cursor.at < cursor.end else -1


cdef inline void advance(Cursor* cursor) noexcept nogil:
    """One octet on; stays at the end."""
    if cursor.at < cursor.end:
        cursor.at += 1
