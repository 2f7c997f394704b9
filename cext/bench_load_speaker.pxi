# What is said: commands and content, written into the output of one connection. Included by bench_load.pyx.


cdef class Speaker:
    cdef Plan _plan
    cdef Phase _phase
    cdef Output _out
    # The message under way, and the one whose commands went out behind its content (`_has_next`).
    cdef int64_t _number, _next_number, _started_ns, _begun
    cdef bint _has_next, _quit_sent
    cdef Py_ssize_t _dot_at  # where in the output the content ends; 0: that has been sent, or is not there yet
    cdef bint _can_pipeline, _can_chunk, _can_starttls

    def __dealloc__(self):
        output_free(&self._out)

    cdef inline Template* _template(self) noexcept:
        cdef Plan plan = self._plan
        return &plan._templates[plan._order[self._number % plan._order_length]]

    cdef int _say_ehlo(self) except -1:
        cdef bytes helo = self._plan._helo
        self._can_pipeline = self._can_chunk = self._can_starttls = False
        output_append(&self._out, b"EHLO ", 5)
        output_append(&self._out, helo, len(helo))
        output_append(&self._out, b"\r\n", 2)
        self._phase = EHLO
        return 0

    cdef int _say_quit(self) except -1:
        output_append(&self._out, b"QUIT\r\n", 6)
        self._phase = QUIT
        return 0

    cdef int _say_rset(self) except -1:
        output_append(&self._out, b"RSET\r\n", 6)
        self._phase = RSET
        return 0

    cdef int _say_envelope(self, int64_t number) except -1:
        """MAIL; with pipelining also each RCPT, and DATA."""
        cdef Plan plan = self._plan
        output_append(&self._out, plan._mail, len(plan._mail))
        if plan._pipelining:
            self._say_rcpts(number, 0, plan._recipients)
            if not plan._bdat:
                output_append(&self._out, b"DATA\r\n", 6)
        return 0

    cdef int _say_rcpts(self, int64_t number, int64_t start, int64_t stop) except -1:
        cdef Plan plan = self._plan
        cdef const char* head = plan._domain_head
        cdef const char* tail = plan._domain_tail
        cdef Py_ssize_t head_length = len(plan._domain_head), tail_length = len(plan._domain_tail)
        cdef Py_ssize_t each = 10 + MAX_DECIMAL + 1 + head_length + MAX_DECIMAL + tail_length + 3
        cdef int64_t domain = (number * plan._recipients + start) % plan._domains
        cdef char* first = output_reserve(&self._out, <Py_ssize_t>(stop - start) * each)
        cdef char* at = first
        cdef int64_t index
        for index in range(start, stop):
            memcpy(at, b"RCPT TO:<r", 10)
            at += 10
            at += write_decimal(at, <uint64_t>index)
            at[0] = c"@"
            at += 1
            memcpy(at, head, head_length)
            at += head_length
            if plan._domain_numbered:
                at += write_decimal(at, <uint64_t>domain)
            memcpy(at, tail, tail_length)
            at += tail_length
            memcpy(at, b">\r\n", 3)
            at += 3
            domain += 1
            if domain == plan._domains:
                domain = 0
        output_wrote(&self._out, at - first)
        return 0

    cdef int _say_content(self) except -1:
        """The message and what ends it, and what may go out behind it."""
        cdef Plan plan = self._plan
        cdef Template* template = self._template()
        cdef char[MAX_DECIMAL] size
        cdef char* head
        if plan._bdat:
            output_append(&self._out, b"BDAT ", 5)
            output_append(&self._out, size, write_decimal(size, template.head_length + template.rest_length))
            output_append(&self._out, b" LAST\r\n", 7)
        head = output_reserve(&self._out, template.head_length)
        memcpy(head, template.head, template.head_length)
        write_digits(head + template.number_at, NUMBER_DIGITS, <uint64_t>self._number)
        write_digits(head + template.message_id_at, NUMBER_DIGITS, <uint64_t>self._number)
        write_digits(head + template.sent_at, SENT_DIGITS, <uint64_t>self._started_ns)
        output_wrote(&self._out, template.head_length)
        if template.rest_length <= COPIED_BYTES:
            output_append(&self._out, template.rest, template.rest_length)
        else:
            output_body(&self._out, template.rest, template.rest_length)
        if not plan._bdat:
            output_append(&self._out, b".\r\n", 3)
        self._dot_at = output_total(&self._out)
        if plan._across:
            self._say_what_follows()
        return 0

    cdef int _say_what_follows(self) except -1:
        cdef Plan plan = self._plan
        cdef Taken taken
        if plan._per_connection > 0 and self._begun >= plan._per_connection:
            taken = FINISHED
        elif plan._bdat:
            return 0  # its turn is one round trip without that
        else:
            taken = plan._take(&self._next_number)
        if taken == GOT:
            self._has_next = True
            self._say_envelope(self._next_number)
        elif taken == FINISHED:
            output_append(&self._out, b"QUIT\r\n", 6)
            self._quit_sent = True
        return 0
