"""What octets.h gives, and bytes that are written before they become an object."""

from libc.stdint cimport uint64_t

cdef extern from "octets.h" nogil:
    struct Lines "lines":
        Py_ssize_t open
        Py_ssize_t longest

    struct Walk "walk":
        uint64_t behind_cr
        uint64_t line_begins
        bint resumed
        Lines lines
        unsigned char* out
        size_t spare
        bint bare_cr
        bint bare_lf
        bint nul
        bint eight_bit

    enum:
        COPY
        DOTS
        STUFF
        VARIANT_COUNT

    ctypedef size_t (*Walker "walker")(Walk* walk, const unsigned char* p, size_t at, size_t stop) noexcept

    struct Variant "variant":
        const char* name
        bint (*runs_here)() noexcept
        const Walker* walkers

    const Variant* all_variants "variants"

cdef extern from "Python.h":
    ctypedef struct RawBytes "PyObject"
    RawBytes* new_bytes "PyBytes_FromStringAndSize"(const char* v, Py_ssize_t size) except NULL
    unsigned char* octets_of "(unsigned char *)PyBytes_AS_STRING"(RawBytes* v) nogil
    int resize "_PyBytes_Resize"(RawBytes** v, Py_ssize_t size) except -1
    void release "Py_DECREF"(RawBytes* v)

cdef enum:
    # Others may run Python meanwhile. To take the interpreter's lock back can mean to wait for them for milliseconds,
    # longer than it takes to walk over anything that came in one read.
    WALK_BYTES_WORTH_THE_LOCK = 1_048_576
