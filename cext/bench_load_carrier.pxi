# What becomes of messages, one after the other on one connection: the answers to the commands of each, and its end, which
# is also that of the connection when it is lost. Included by bench_load.pyx.


cdef class Carrier(Speaker):
    cdef int _fd, _changes
    cdef bint _silent
    # A message is under way (`_open`), which has failed already (`_bad`), or whose content has been sent to its end.
    cdef bint _open, _mail_ok, _bad, _dot_sent
    cdef int64_t _answered, _accepted
    cdef ReplyLine _line
    cdef readonly str reason

    # Answers.

    cdef int _mail_answered(self, bint ok) except -1:
        self._mail_ok = ok
        if not ok:
            self._refused()
        if self._plan._pipelining:
            self._phase = RCPT
        elif ok:
            self._phase = RCPT
            self._say_rcpts(self._number, 0, 1)
        else:
            self._give_up()
        return 0

    cdef int _rcpt_answered(self, bint ok) except -1:
        cdef Plan plan = self._plan
        self._answered += 1
        if ok:
            self._accepted += 1
        else:
            plan.refused += 1
            if not self._bad:
                self._note(self._shown())
        if self._answered < plan._recipients:
            if not plan._pipelining:
                self._say_rcpts(self._number, self._answered, self._answered + 1)
            return 0
        if self._accepted == 0:
            self._bad = True
        if plan._pipelining:
            self._phase = DOT if plan._bdat else DATA
        elif self._bad:
            self._give_up()
        elif plan._bdat:
            self._say_content()
            self._phase = DOT
        else:
            output_append(&self._out, b"DATA\r\n", 6)
            self._phase = DATA
        return 0

    cdef int _data_answered(self, int kind) except -1:
        if kind == 3:
            if self._bad:
                # Not one recipient, and DATA all the same: an empty message is the way out (RFC 2920 §3.1).
                output_append(&self._out, b".\r\n", 3)
                self._dot_at = output_total(&self._out)
            else:
                self._say_content()
            self._phase = DOT
        elif kind == 2:
            self._lose(self._shown())
        else:
            self._refused()
            self._give_up()
        return 0

    cdef int _dot_answered(self, bint ok) except -1:
        cdef Plan plan = self._plan
        if ok and self._accepted > 0 and not self._bad:
            self._open = False
            plan._acknowledge(self._started_ns, self._accepted, self._template().content_bytes)
        else:
            self._refused()
            self._fail()
        if self._has_next:
            self._has_next = False
            self._enter(self._next_number)
        elif self._quit_sent:
            self._phase = QUIT
        elif plan._bdat and not ok and self._mail_ok:
            self._say_rset()  # RFC 3030 §2: the transaction is of no use any more, but still there
        else:
            self._next()
        return 0

    # From message to message.

    cdef int _next(self) except -1:
        """Begin the next message, or wait for it, or quit."""
        cdef Plan plan = self._plan
        cdef Taken taken
        if self._silent:
            self._phase = IDLE
            return 0
        if plan._per_connection > 0 and self._begun >= plan._per_connection:
            return self._say_quit()
        taken = plan._take(&self._next_number)
        if taken == GOT:
            self._enter(self._next_number)
            self._say_envelope(self._number)
            if plan._pipelining and plan._bdat:
                self._say_content()
        elif taken == LATER:
            self._phase = IDLE
            plan._waiting.append(self)
            self._changes |= WAITING_
        else:
            self._say_quit()
        return 0

    cdef int _enter(self, int64_t number) noexcept:
        """From now on this message is under way."""
        cdef Plan plan = self._plan
        self._number = number
        # In open loop time runs from when it was due: a server that is slow to take one message delays the next ones.
        self._started_ns = plan._planned(number) if plan._rate_per_s > 0 else plan._now_ns
        self._open = True
        self._mail_ok = self._bad = self._dot_sent = False
        self._answered = self._accepted = self._dot_at = 0
        self._begun += 1
        self._phase = MAIL
        if plan.first_ns == 0:
            plan.first_ns = plan._now_ns
        return 0

    cdef int _give_up(self) except -1:
        """The message has failed before its content; the server may still have a transaction open."""
        self._fail()
        if self._mail_ok:
            self._say_rset()
        else:
            self._next()
        return 0

    cdef int _refused(self) except -1:
        """The reply says no to the message under way. What follows from that is not counted as another error."""
        if not self._bad:
            self._bad = True
            self._note(self._shown())
        return 0

    cdef int _fail(self) except -1:
        self._open = False
        self._plan.failed += 1
        self._plan.in_flight -= 1
        return 0

    cdef int _lose(self, str reason) except -1:
        """The end of a connection that should have gone on."""
        cdef Plan plan = self._plan
        self.reason = reason
        if reason:
            self._note(reason)
        if self._open:
            if self._bad:
                self._fail()
            elif self._dot_sent:
                plan.in_doubt += 1
                self._fail()
            else:
                self._open = False
                plan._give_back(self._number)
        if self._has_next:
            self._has_next = False
            plan._give_back(self._next_number)
        self._forget_wait()
        self._close(LOST_)
        return 0

    cdef int _forget_wait(self) except -1:
        if self._phase == IDLE and not self._silent:
            try:
                self._plan._waiting.remove(self)
            except ValueError:
                pass
        return 0

    cdef int _close(self, int change) noexcept:
        self._phase = CLOSED
        self._changes |= change
        self._fd = -1
        output_clear(&self._out)
        return 0

    cdef int _note(self, str text) except -1:
        self._plan.note(f"{PHASES[<int>self._phase]}: {text}")
        return 0

    cdef str _shown(self):
        """The last reply line without the addresses in it, so that it is the same for all messages."""
        cdef str text = ascii(self._line.text[:min(self._line.kept, <Py_ssize_t>SHOWN_BYTES)])
        cdef str shown = ""
        cdef str before, opened
        text = text[2:len(text) - 1]  # without b''
        while True:
            before, opened, text = text.partition("<")
            shown += before + opened
            if not opened:
                return shown
            text = "".join(text.partition(">")[1:])
