# What there is to send, in which order, and what became of it. Included by bench_load.pyx.

cdef enum Taken:
    GOT
    LATER
    FINISHED

cdef struct Template:
    const char* head
    Py_ssize_t head_length
    Py_ssize_t number_at
    Py_ssize_t sent_at
    Py_ssize_t message_id_at
    const char* rest
    Py_ssize_t rest_length
    int64_t content_bytes


cdef class Alarm:
    cdef int _fd

    def __cinit__(self):
        self._fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(errno, "timerfd_create")

    def __dealloc__(self):
        self.close()

    def fileno(self):
        return self._fd

    def set(self, int64_t when_ns):
        cdef itimerspec spec
        memset(&spec, 0, sizeof(spec))
        when_ns = max(when_ns, 1)  # nought would disarm it
        spec.it_value.tv_sec = when_ns // 1000000000
        spec.it_value.tv_nsec = when_ns % 1000000000
        timerfd_settime(self._fd, TFD_TIMER_ABSTIME, &spec, NULL)

    def clear(self):
        cdef uint64_t expired
        read(self._fd, &expired, sizeof(expired))

    cpdef close(self):
        if self._fd >= 0:
            close(self._fd)
            self._fd = -1


cdef class Plan:
    cdef list _kept  # the bytes that _templates points into
    cdef Template* _templates
    cdef int* _order
    cdef Py_ssize_t _order_length
    cdef bytes _mail, _helo, _domain_head, _domain_tail
    cdef bint _domain_numbered, _pipelining, _across, _bdat, _starttls, _stopped
    cdef int64_t _recipients, _domains, _messages, _per_connection, _duration_ns
    cdef double _rate_per_s
    cdef uint64_t[::1] _counts, _totals
    cdef list _retries
    cdef dict _tries
    cdef int64_t _next, _now_ns
    cdef char* _buffer
    cdef object _waiting
    cdef readonly dict errors
    cdef readonly str fatal
    cdef readonly int64_t began_ns, first_ns, last_ns
    cdef readonly int64_t acknowledged, recipients, refused, failed, in_doubt, retried, in_flight, octets

    def __init__(
        self,
        *,
        list templates not None,
        list order not None,
        bytes mail not None,
        bytes helo not None,
        int64_t recipients,
        int64_t domains,
        bytes domain_head not None,
        bytes domain_tail not None,
        bint domain_numbered,
        bint pipelining,
        bint across,
        bint bdat,
        bint starttls,
        int64_t messages,
        int64_t messages_per_connection,
        double rate_per_s,
        int64_t duration_ns,
        uint64_t[::1] counts not None,
        uint64_t[::1] totals not None,
    ):
        if self._templates != NULL:
            raise ValueError("a plan is made once")
        if not templates or not order or not 1 <= recipients <= 1 << 30 or not 1 <= domains <= 1 << 30:
            raise ValueError("a plan needs templates, their order, recipients and domains")
        if totals.shape[0] < 2 or counts.shape[0] < (LARGEST_BITS - SUB_BITS + 1) << SUB_BITS:
            raise ValueError("the histogram is too small")
        self._kept = []
        self._templates = <Template*>malloc(len(templates) * sizeof(Template))
        self._order = <int*>malloc(len(order) * sizeof(int))
        self._buffer = <char*>malloc(READ_BYTES)
        if self._templates == NULL or self._order == NULL or self._buffer == NULL:
            raise MemoryError
        self._set_templates(templates, order)
        self._mail = mail
        self._helo = helo
        self._recipients = recipients
        self._domains = domains
        self._domain_head = domain_head
        self._domain_tail = domain_tail
        self._domain_numbered = domain_numbered
        self._pipelining = pipelining
        self._across = across and pipelining
        self._bdat = bdat
        self._starttls = starttls
        self._messages = messages
        self._per_connection = messages_per_connection
        self._rate_per_s = rate_per_s
        self._duration_ns = duration_ns
        self._counts = counts
        self._totals = totals
        self._retries = []
        self._tries = {}
        self._waiting = deque()
        self.errors = {}

    def __dealloc__(self):
        free(self._templates)
        free(self._order)
        free(self._buffer)

    cdef int _set_templates(self, list templates, list order) except -1:
        cdef Py_ssize_t i, number_at, sent_at, message_id_at
        cdef bytes head, rest
        cdef Template* template
        for i in range(len(templates)):
            head, number_at, sent_at, message_id_at, rest, content_bytes = templates[i]
            if (
                min(number_at, sent_at, message_id_at) < 0
                or max(number_at, message_id_at) + NUMBER_DIGITS > len(head)
                or sent_at + SENT_DIGITS > len(head)
            ):
                raise ValueError("marks outside the head")
            self._kept.append((head, rest))
            template = &self._templates[i]
            template.head = head
            template.head_length = len(head)
            template.number_at = number_at
            template.sent_at = sent_at
            template.message_id_at = message_id_at
            template.rest = rest
            template.rest_length = len(rest)
            template.content_bytes = content_bytes
        for i in range(len(order)):
            if not 0 <= order[i] < len(templates):
                raise ValueError("no such template")
            self._order[i] = order[i]
        self._order_length = len(order)
        return 0

    @property
    def exhausted(self):
        self._now_ns = now_ns()
        return self._stopped or (self._ended() and not self._retries)

    @property
    def due_ns(self):
        if not self._waiting:
            return 0
        self._now_ns = now_ns()
        return self._now_ns if self._stopped or self._retries or self._ended() else self._planned(self._next)

    def stop(self):
        self._stopped = True

    def wake(self):
        self._now_ns = now_ns()
        while self._waiting and (
            self._stopped or self._retries or self._ended() or self._planned(self._next) <= self._now_ns
        ):
            (<Conversation>self._waiting.popleft()).proceed()

    def note(self, str text not None):
        if text not in self.errors and len(self.errors) >= MAX_ERRORS:
            text = "others"
        self.errors[text] = self.errors.get(text, 0) + 1

    cdef inline int64_t _planned(self, int64_t number) noexcept:
        """When a message is due in open loop."""
        if self._rate_per_s <= 0:
            return 0
        return self.began_ns + <int64_t>(<double>number * 1e9 / self._rate_per_s)

    cdef bint _ended(self) noexcept:
        """All that there is to send has been begun once."""
        cdef int64_t end_ns
        if self._messages > 0 and self._next >= self._messages:
            return True
        if self._duration_ns <= 0 or self.began_ns == 0:
            return False
        end_ns = self.began_ns + self._duration_ns
        return self._now_ns >= end_ns or (self._rate_per_s > 0 and self._planned(self._next) >= end_ns)

    cdef Taken _take(self, int64_t* number):
        """The next message."""
        if self._stopped:
            return FINISHED
        if self.began_ns == 0:
            self.began_ns = self._now_ns
        if self._retries:
            number[0] = self._retries.pop()
        elif self._ended():
            return FINISHED
        elif self._rate_per_s > 0 and self._planned(self._next) > self._now_ns:
            return LATER
        else:
            number[0] = self._next
            self._next += 1
        self.in_flight += 1
        return GOT

    cdef void _acknowledge(self, int64_t started_ns, int64_t recipients, int64_t octets) noexcept:
        cdef uint64_t taken_ns = <uint64_t>max(self._now_ns - started_ns, <int64_t>0)
        cdef uint64_t units = taken_ns >> UNIT_BITS
        cdef int shift = 0
        if units >> LARGEST_BITS:
            units = (<uint64_t>1 << LARGEST_BITS) - 1
        while units >> shift >= 2 << SUB_BITS:
            shift += 1
        self._counts[(shift << SUB_BITS) + <Py_ssize_t>(units >> shift)] += 1
        self._totals[0] += taken_ns
        self._totals[1] = max(self._totals[1], taken_ns)
        self.in_flight -= 1
        self.acknowledged += 1
        self.recipients += recipients
        self.octets += octets
        self.last_ns = self._now_ns

    cdef int _give_back(self, int64_t number) except -1:
        """It was not sent to its end: another connection may try it."""
        cdef int tries = self._tries.get(number, 0) + 1
        self.in_flight -= 1
        if tries >= MAX_TRIES:
            self.failed += 1
            self.note(f"given up after {tries} lost connections")
        else:
            self._tries[number] = tries
            self._retries.append(number)
            self.retried += 1
        return 0
