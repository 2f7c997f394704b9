"""Relaxed canonicalisation, as DKIM wants it: of a body that comes in pieces, and of the fields of a header.

Promise: what comes out does not depend on where the body was cut. Memory is bounded, whatever is held back: of empty
lines, which count only once text follows them, there is but a number. No Python object is made for a line.

How: the body is canonicalised into a block, which is given away (to be hashed) whenever it is full. Between blanks and
line ends text is copied as it is; one blank between text is text. Fields are found once, as places in the header;
those that are wanted are written in one go. Long pieces are walked over without the interpreter's lock.
Source: RFC 6376 §3.4.2, §3.4.4, §5.4. tests/reference/dkim.py is the plain-Python twin.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy

from octets cimport RawBytes, new_bytes, octets_of, release, resize

cdef enum:
    BLOCK_BYTES = 32_768
    # To take the interpreter's lock back can mean to wait for others: not for what is done in some microseconds.
    BYTES_WORTH_THE_LOCK = 16_384
    # Fields of one name that are signed: more are no header of a mail, and all of them have to be named in h=. Where none
    # may be added, all have to be signed, or the topmost, which readers show, could be changed by anybody.
    MOST_OF_A_NAME = 16
    MOST_OVERSIGNED = 64


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c + 32 if c'A' <= c <= c'Z' else c


cdef class RelaxedBody:
    """Canonicalises one body, and gives it to `update` in blocks.

    Args:
        update: takes bytes; as a rule that of a hash.
    """

    cdef object update
    cdef unsigned char* block
    cdef Py_ssize_t filled
    cdef long long line_ends  # held back: they count if text follows
    cdef bint blank  # held back: it counts if text follows on its line
    cdef bint cr  # held back: the next octet tells whether it is part of a line end, or text
    cdef bint has_text

    def __cinit__(self, update):
        self.update = update
        self.block = <unsigned char*>malloc(BLOCK_BYTES)
        if self.block == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.block)

    def feed(self, bytes piece not None):
        """Take in the next piece."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(piece)
        cdef Py_ssize_t at = 0, stop = PyBytes_GET_SIZE(piece)
        while True:
            if stop - at < BYTES_WORTH_THE_LOCK:
                at = self.fill(p, at, stop)
            else:
                with nogil:
                    at = self.fill(p, at, stop)
            if at == stop:
                return
            self.give()

    def finish(self):
        """The end of the body: what was held back is text or nothing, and the last line has its end."""
        if self.cr:
            while not self.lead():
                self.give()
            self.put(c'\r')
        if self.has_text:
            if self.filled + 2 > BLOCK_BYTES:
                self.give()
            self.block[self.filled] = c'\r'
            self.block[self.filled + 1] = c'\n'
            self.filled += 2
        self.give()

    cdef int give(self) except -1:
        """Empty the block."""
        if self.filled:
            self.update(PyBytes_FromStringAndSize(<const char*>self.block, self.filled))
            self.filled = 0
        return 0

    cdef void put(self, unsigned char c) noexcept nogil:
        """One octet of text, for which there is room."""
        self.block[self.filled] = c
        self.filled += 1
        self.cr = False
        self.has_text = True

    cdef bint lead(self) noexcept nogil:
        """Write what was held back before text. False: the block is full, come again. Leaves room for one octet."""
        while self.line_ends:
            if self.filled + 2 > BLOCK_BYTES:
                return False
            self.block[self.filled] = c'\r'
            self.block[self.filled + 1] = c'\n'
            self.filled += 2
            self.line_ends -= 1
        if self.filled + 2 > BLOCK_BYTES:
            return False
        if self.blank:
            self.block[self.filled] = c' '
            self.filled += 1
            self.blank = False
        return True

    cdef Py_ssize_t fill(self, const unsigned char* p, Py_ssize_t at, Py_ssize_t stop) noexcept nogil:
        """Take in p[at:stop], as far as the block goes. Returns how far that was."""
        cdef Py_ssize_t begin, limit
        cdef unsigned char c
        while at < stop:
            c = p[at]
            if self.cr:
                if c == c'\n':
                    self.cr = self.blank = False
                    self.line_ends += 1
                    at += 1
                elif self.lead():
                    self.put(c'\r')
                else:
                    break
            elif c == c'\r':
                self.cr = True
                at += 1
            elif is_blank(c):
                self.blank = True
                at += 1
            elif not self.lead():
                break
            else:
                begin = at
                limit = min(stop, at + BLOCK_BYTES - self.filled)
                at += 1
                while at < limit:
                    c = p[at]
                    if c > c' ':
                        at += 1
                    elif c == c' ' and at + 1 < limit and p[at + 1] > c' ':
                        at += 2
                    elif c == c'\r' or is_blank(c):
                        break
                    else:
                        at += 1
                memcpy(self.block + self.filled, p + begin, at - begin)
                self.filled += at - begin
                self.has_text = True
        return at


cdef struct Field:
    Py_ssize_t begin
    Py_ssize_t name_end
    Py_ssize_t value  # behind the colon
    Py_ssize_t end  # behind its last line


cdef Py_ssize_t write_relaxed(const unsigned char* p, const Field* field, unsigned char* out) noexcept nogil:
    """Write a field as it is signed; that has at most two octets more than the field. Returns how many there are."""
    cdef Py_ssize_t at, written = 0, value
    cdef bint blank = False
    cdef unsigned char c
    for at in range(field.begin, field.name_end):
        out[written] = lower(p[at])
        written += 1
    out[written] = c':'
    written += 1
    value = written
    for at in range(field.value, field.end):
        c = p[at]
        if is_blank(c):
            blank = True
        elif c == c'\n' or (c == c'\r' and at + 1 < field.end and p[at + 1] == c'\n'):
            pass
        else:
            if blank and written > value:
                out[written] = c' '
                written += 1
            blank = False
            out[written] = c
            written += 1
    out[written] = c'\r'
    out[written + 1] = c'\n'
    return written + 2


cdef class Fields:
    """The fields of a header, by their places in it. What is no field is passed over.

    Args:
        header: up to the empty line, or with it.
    """

    cdef bytes header
    cdef Field* fields
    cdef Py_ssize_t room
    cdef readonly Py_ssize_t count

    def __cinit__(self, bytes header not None):
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(header)
        cdef Py_ssize_t stop = PyBytes_GET_SIZE(header)
        cdef bint done
        self.header = header
        if stop < BYTES_WORTH_THE_LOCK:
            done = self.find(p, stop)
        else:
            with nogil:
                done = self.find(p, stop)
        if not done:
            raise MemoryError

    def __dealloc__(self):
        free(self.fields)

    def values(self, bytes name not None, Py_ssize_t most):
        """What stands behind the colons of the fields of this name, line ends included, from the top; no more than `most`.
        """
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(self.header)
        cdef Py_ssize_t i
        found = []
        for i in range(self.count):
            if len(found) >= most:
                break
            if self.is_named(p, i, <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                found.append(PyBytes_FromStringAndSize(<const char*>p + self.fields[i].value,
                                                       self.fields[i].end - self.fields[i].value))
        return found

    def signed(self, tuple names not None, Py_ssize_t oversigned):
        """What is signed of this header.

        Args:
            names: of the fields, none of them twice whatever its case.
            oversigned: so many of them, from the first on, are named once more than they are there: then none can be
                added.

        Returns:
            the value of h=, and the fields in relaxed form in its order. Of several of one name the lowest comes
            first. No more than 16 are taken of a name that is not oversigned.

        Raises:
            ValueError: there are more than 64 of one that is.
        """
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(self.header)
        cdef Py_ssize_t* chosen
        cdef Py_ssize_t chosen_count = 0, octets = 0, number, taken, most, i, written = 0
        cdef bytes name
        cdef RawBytes* raw
        cdef unsigned char* out
        named = []
        chosen = <Py_ssize_t*>malloc((self.count + 1) * sizeof(Py_ssize_t))
        if chosen == NULL:
            raise MemoryError
        try:
            for number in range(len(names)):
                name = names[number]
                taken = 0
                most = MOST_OVERSIGNED if number < oversigned else MOST_OF_A_NAME
                for i in range(self.count - 1, -1, -1):
                    if self.is_named(p, i, <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                        if taken == most or chosen_count == self.count:
                            if number < oversigned:
                                raise ValueError(f"more than {most} fields {name.decode()}")
                            break
                        chosen[chosen_count] = i
                        chosen_count += 1
                        taken += 1
                        octets += self.fields[i].end - self.fields[i].begin + 2
                        named.append(name)
                if number < oversigned:
                    named.append(name)
            raw = new_bytes(NULL, octets)
            out = octets_of(raw)
            for i in range(chosen_count):
                written += write_relaxed(p, &self.fields[chosen[i]], out + written)
        finally:
            free(chosen)
        resize(&raw, written)
        relaxed = <bytes>raw  # which takes a reference of its own
        release(raw)
        return b":".join(named), relaxed

    cdef bint is_named(
        self, const unsigned char* p, Py_ssize_t i, const unsigned char* name, Py_ssize_t size
    ) noexcept nogil:
        cdef const Field* field = &self.fields[i]
        cdef Py_ssize_t k
        if field.name_end - field.begin != size:
            return False
        for k in range(size):
            if lower(p[field.begin + k]) != lower(name[k]):
                return False
        return True

    cdef bint find(self, const unsigned char* p, Py_ssize_t stop) noexcept nogil:
        """Note the places of all fields. False: out of memory."""
        cdef Py_ssize_t at = 0, end, k, name_end
        cdef const unsigned char* hit
        cdef Field* grown
        cdef bint in_field = False
        while at < stop:
            hit = <const unsigned char*>memchr(p + at, c'\n', stop - at)
            end = stop if hit == NULL else hit - p + 1
            if is_blank(p[at]):
                if in_field:
                    self.fields[self.count - 1].end = end
                at = end
                continue
            k = at
            while k < end and 33 <= p[k] <= 126 and p[k] != c':':
                k += 1
            name_end = k
            while k < end and is_blank(p[k]):
                k += 1
            in_field = name_end > at and k < end and p[k] == c':'
            if in_field:
                if self.count == self.room:
                    self.room = 2 * self.room + 32
                    grown = <Field*>realloc(self.fields, self.room * sizeof(Field))
                    if grown == NULL:
                        return False
                    self.fields = grown
                self.fields[self.count].begin = at
                self.fields[self.count].name_end = name_end
                self.fields[self.count].value = k + 1
                self.fields[self.count].end = end
                self.count += 1
            at = end
        return True


def relaxed_field(bytes field not None):
    """One field in relaxed form.

    Raises:
        ValueError: it is none, or more than one.
    """
    cdef Fields found = Fields(field)
    if found.count != 1 or found.fields[0].begin != 0 or found.fields[0].end != PyBytes_GET_SIZE(field):
        raise ValueError("not one field")
    cdef RawBytes* raw = new_bytes(NULL, PyBytes_GET_SIZE(field) + 2)
    cdef Py_ssize_t written = write_relaxed(
        <const unsigned char*>PyBytes_AS_STRING(field), &found.fields[0], octets_of(raw)
    )
    resize(&raw, written)
    relaxed = <bytes>raw
    release(raw)
    return relaxed
