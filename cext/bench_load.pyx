"""One side of many SMTP conversations: what the load generator does for each message, in C.

Promise: a message counts as acknowledged only when its final dot (or BDAT LAST) had been handed to the kernel and 2xx
was the reply to it; every message that was taken from the plan ends in exactly one of acknowledged, failed, or given
back to be sent again, whatever the server says or does. Whatever it sends, memory stays bounded.

How: a `Plan` says which message comes next, and counts; a `Conversation` is the state of one connection. Each reply
moves it one step, and what it has to say collects in one buffer, in which the marks of a message are patched. `ready`
receives and sends on a socket by itself: one recv and one send for each turn of the dialogue. Over TLS the same is fed
with `feed`, `pending` and `sent`.

A reply to a command that has not left yet is a lie, and ends the connection. That is what keeps output bounded: there
is never more of it than one turn needs.
"""

from collections import deque

from cython cimport final
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strerror
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close, read

from decimal cimport MAX_DECIMAL, write_decimal, write_digits
from output cimport (
    ALL_SENT, SOCKET_FULL, Flushed, Output, output_append, output_body, output_clear, output_flush, output_free,
    output_next, output_reserve, output_total, output_waits, output_wrote,
)
from replyline cimport NOT_A_REPLY, UNFINISHED, ReplyLine, reply_line
from sockets cimport (
    EPOLLOUT, MSG_DONTWAIT, TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME, itimerspec, now_ns, recv, timerfd_create,
    timerfd_settime,
)

cdef enum:
    BLOCKED_ = 1
    UNBLOCKED_ = 2
    READY_ = 4
    SECURE_ = 8
    WAITING_ = 16
    DONE_ = 32
    LOST_ = 64

# What the owner of a connection is told, as bits.
BLOCKED = BLOCKED_  # there is output that waits
UNBLOCKED = UNBLOCKED_  # there is none any more
READY = READY_  # greetings are exchanged
SECURE = SECURE_  # the TLS handshake is due
WAITING = WAITING_  # in open loop, it has nothing to do for now: see Plan.wake
DONE = DONE_  # the connection has ended as it should
LOST = LOST_  # it has ended as it should not; `reason` says why

cdef enum:
    READ_BYTES = 128 * 1024
    COPIED_BYTES = 32 * 1024  # a body up to this size is copied beside the commands, for a plain send
    SHOWN_BYTES = 120  # of a reply, in the text of an error
    MAX_TRIES = 5  # connections that may be lost under one message before it counts as failed
    MAX_ERRORS = 200  # different texts that are counted each by itself
    # As in postroika.bench.histogram and postroika.bench.messages.
    SUB_BITS = 6
    UNIT_BITS = 10
    LARGEST_BITS = 34
    NUMBER_DIGITS = 10
    SENT_DIGITS = 20

cdef enum Phase:
    CLOSED
    GREETING
    EHLO
    STARTTLS
    HANDSHAKE
    IDLE
    MAIL
    RCPT
    DATA
    DOT
    RSET
    QUIT

cdef tuple PHASES = (
    "closed", "greeting", "EHLO", "STARTTLS", "handshake", "idle", "MAIL", "RCPT", "DATA", "final dot", "RSET", "QUIT"
)

include "bench_load_plan.pxi"
include "bench_load_speaker.pxi"
include "bench_load_carrier.pxi"


@final
cdef class Conversation(Carrier):
    cdef object _on_change
    cdef bint _secure, _blocked
    cdef readonly int64_t active_ns

    def __init__(self, Plan plan not None, on_change, *, bint silent=False):
        self._plan = plan
        self._on_change = on_change
        self._silent = silent
        self._fd = -1
        self.reason = ""

    # What the owner of the connection calls.

    def open(self, int fd):
        if self._phase != CLOSED:
            raise ValueError("it is open")
        self._fd = fd
        self._phase = GREETING
        self._changes = 0
        self._secure = self._blocked = self._quit_sent = False
        self._begun = 0
        self._line.kept = self._line.length = 0
        self._line.ended = False
        self.reason = ""
        self.active_ns = now_ns()

    def ready(self, int events):
        cdef ssize_t count
        cdef Plan plan = self._plan
        plan._now_ns = self.active_ns = now_ns()
        if events & ~EPOLLOUT:
            while self._phase != CLOSED:
                count = recv(self._fd, plan._buffer, READ_BYTES, MSG_DONTWAIT)
                if count > 0:
                    self._take(plan._buffer, count)
                    if count == READ_BYTES:
                        continue
                elif count == 0:
                    self._take_end()
                elif errno == EINTR:
                    continue
                elif errno != EAGAIN:
                    self._lose(strerror(errno).decode())
                break
        if self._fd >= 0:
            self._flush()
        self._tell()

    def feed(self, const unsigned char[::1] chunk not None):
        self._plan._now_ns = self.active_ns = now_ns()
        if self._phase != CLOSED:
            if chunk.shape[0] == 0:
                self._take_end()
            else:
                self._take(<const char*>&chunk[0], chunk.shape[0])
        self._tell()

    def pending(self, Py_ssize_t most=65536):
        cdef Py_ssize_t count
        cdef const char* start = output_next(&self._out, &count)
        return start[:min(count, most)] if count > 0 else b""

    def sent(self, Py_ssize_t count):
        if not 0 <= count <= output_total(&self._out) - self._out.at:
            raise ValueError("more than is pending")
        self._out.at += count
        self._was_sent()

    def secured(self):
        self._fd = -1
        self._secure = True
        if self._phase == HANDSHAKE:
            self._say_ehlo()

    def proceed(self):
        if self._phase == IDLE:
            self._plan._now_ns = self.active_ns = now_ns()
            self._next()
            self._flush()
            self._tell()

    def quit(self):
        if self._phase == IDLE:
            self._forget_wait()
            self._say_quit()
            self._flush()
            self._tell()

    def lose(self, str reason not None):
        if self._phase != CLOSED:
            self._lose(reason)
        self._changes = 0

    @property
    def idle(self):
        return self._phase == IDLE

    @property
    def closed(self):
        return self._phase == CLOSED

    # Input.

    cdef int _take_end(self) except -1:
        if self._phase == QUIT:
            self._close(DONE_)
        else:
            self._lose("the server closed the connection")
        return 0

    cdef int _take(self, const char* at, Py_ssize_t count) except -1:
        cdef const char* end = at + count
        cdef int code
        while at != end and self._phase != CLOSED:
            if self._phase == HANDSHAKE:
                # What comes in the clear must not be taken for what comes over TLS (CVE-2011-0411 and its like).
                self._lose("more than a reply to STARTTLS")
                break
            code = reply_line(&self._line, &at, end)
            if code == NOT_A_REPLY:
                self._lose(f"not a reply: {self._shown()}")
            elif code != UNFINISHED:
                if self._phase == EHLO:
                    self._take_keyword()
                if self._line.last:
                    self._take_reply(code)
        return 0

    cdef int _take_keyword(self) except -1:
        cdef bytes keyword = self._line.text[4:max(self._line.kept, 4)].upper()
        if keyword == b"PIPELINING":
            self._can_pipeline = True
        elif keyword == b"CHUNKING":
            self._can_chunk = True
        elif keyword == b"STARTTLS":
            self._can_starttls = True
        return 0

    cdef bint _was_asked(self) noexcept:
        """Whether the command that a reply would be for now has left."""
        if not output_waits(&self._out):
            return True
        if self._phase == DOT:
            return self._dot_sent
        # One write has them all, and a long one goes out in parts. Nothing is said before the reply to its last one.
        return self._plan._pipelining and (self._phase == MAIL or self._phase == RCPT)

    cdef int _take_reply(self, int code) except -1:
        cdef int kind = code // 100
        if self._phase == QUIT:
            self._close(DONE_)
        elif not self._was_asked():
            # A message that is refused before it is there is lost all the same; one that is accepted is not.
            self._bad = self._bad or (self._phase == DOT and kind >= 4)
            self._lose(f"a reply before the command: {self._shown()}")
        elif code == 421:
            # It says no to the final dot, and to what came before; so there is no doubt.
            self._bad = self._bad or self._phase == DOT
            self._dot_sent = False
            self._lose(self._shown())
        elif self._phase == RCPT:
            self._rcpt_answered(kind == 2)
        elif self._phase == DOT:
            self._dot_answered(kind == 2)
        elif self._phase == MAIL:
            self._mail_answered(kind == 2)
        elif self._phase == DATA:
            self._data_answered(kind)
        elif kind != 2:
            self._lose(self._shown())
        elif self._phase == GREETING:
            self._say_ehlo()
        elif self._phase == EHLO:
            self._greeted()
        elif self._phase == STARTTLS:
            self._phase = HANDSHAKE
            self._changes |= SECURE_
        elif self._phase == RSET:
            self._next()
        else:
            self._lose(f"a reply that was not asked for: {self._shown()}")
        return 0

    cdef int _greeted(self) except -1:
        cdef Plan plan = self._plan
        if plan._starttls and not self._secure:
            if self._can_starttls:
                output_append(&self._out, b"STARTTLS\r\n", 10)
                self._phase = STARTTLS
            else:
                self._cannot("STARTTLS")
        elif plan._pipelining and not self._can_pipeline:
            self._cannot("PIPELINING")
        elif plan._bdat and not self._can_chunk:
            self._cannot("CHUNKING")
        else:
            self._changes |= READY_
            self._next()
        return 0

    cdef int _cannot(self, str extension) except -1:
        self._plan.fatal = f"the server does not offer {extension}"
        self._lose(self._plan.fatal)
        return 0

    cdef int _tell(self) except -1:
        cdef int changes = self._changes
        if changes:
            self._changes = 0
            self._on_change(changes)
        return 0

    # Output.

    cdef int _was_sent(self) noexcept:
        if self._dot_at > 0 and self._out.at >= self._dot_at:
            self._dot_at = 0
            self._dot_sent = True
        if not output_waits(&self._out):
            output_clear(&self._out)
        return 0

    cdef int _flush(self) except -1:
        cdef Flushed flushed
        if not output_waits(&self._out):
            return 0
        if self._fd < 0:
            self._changes |= BLOCKED_
            return 0
        flushed = output_flush(&self._out, self._fd)
        if flushed == ALL_SENT or flushed == SOCKET_FULL:
            self._was_sent()
            if self._blocked != (flushed == SOCKET_FULL):
                self._blocked = not self._blocked
                self._changes |= BLOCKED_ if self._blocked else UNBLOCKED_
        else:
            self._lose(strerror(errno).decode())
        return 0
