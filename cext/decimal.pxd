"""Numbers written as decimal digits into a buffer."""

from libc.stdint cimport uint64_t

cdef enum:
    MAX_DECIMAL = 20  # digits of the largest uint64_t


cdef inline void write_digits(char* at, int width, uint64_t value) noexcept nogil:
    """Exactly `width` digits, with leading zeros; higher ones are lost."""
    while width > 0:
        width -= 1
        at[width] = <char>(c"0" + <int>(value % 10))
        value //= 10


cdef inline Py_ssize_t write_decimal(char* at, uint64_t value) noexcept nogil:
    """Without leading zeros, at most MAX_DECIMAL digits; returns how many."""
    cdef int width = 1
    cdef uint64_t rest = value // 10
    while rest:
        width += 1
        rest //= 10
    write_digits(at, width, value)
    return width
