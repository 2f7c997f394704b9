"""The hot path of `smtp.server`: input, plain commands, content, verdicts and output, with few calls for each message.

Promise: what is taken here has the meaning and the reply that the rest of the Server would give it; whatever is not
plain is left where it is, for the Server to say. It never reads outside a buffer, and splits a line nowhere but at
CR LF.

How: a `Lane` is the base of the Server. A command line is plain if it is one of these, verbs and keywords in any case,

    MAIL FROM:<dot-atom@domain>   or <>, then SIZE=… and BODY=7BIT or BODY=8BITMIME at most once
    RCPT TO:<dot-atom@domain>
    DATA

in ASCII, ended by CR LF, with all that it needs offered and within the limits; and if the table of states allows it.
`advance` also accepts it, without an event, where the session has said that nobody is to be asked. A `BodyReader`
(body_reader.pxi) measures and judges the content, which the scanners of datastream.pyx and headers.pyx have looked at.
Events, states and replies are not known here: `Words` has them.
Source: the grammar is that of command.pyx, narrowed. The oracles are the Server with `_plain` off, and
tests/reference/body.py and server_session.py (tests/unit/test_kernel_server_lane.py).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from verbs cimport VERB_DATA, VERB_MAIL, VERB_RCPT, equals_upper, upper

from types import GenericAlias

from postroika.kernels.datastream import DataScanner
from postroika.kernels.headers import HeaderScanner

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_1BYTE_DATA(str text)

include "plain_address.pxi"

cdef enum:
    COMMANDS_ = 0
    SKIPPING_ = 1
    CONTENT_ = 2
    CHUNK_ = 3

# What the next input octets are.
COMMANDS = COMMANDS_
SKIPPING = SKIPPING_
CONTENT = CONTENT_
CHUNK = CHUNK_

cdef enum:
    ANYTHING_ = 0
    NEXT_ = 1
    REST_ = 2
    OCTETS_ = 3

# What comes in next, as `Lane.awaits` tells.
ANYTHING = ANYTHING_
NEXT_COMMAND = NEXT_
REST_OF_COMMAND = REST_
OCTETS = OCTETS_

cdef enum:
    MOST_HELD_BYTES = 65_536  # of content that the session has not been told of

cdef enum:
    NOTHING_ = 0
    HELO_ = 1
    MAIL_ = 2
    RCPT_ = 3
    DATA_ = 4
    END_ = 5
    AUTH_ = 6
    XCLIENT_ = 7

# What `answer` is waited for.
NOTHING = NOTHING_
AWAIT_HELO = HELO_
AWAIT_MAIL = MAIL_
AWAIT_RCPT = RCPT_
AWAIT_DATA = DATA_
AWAIT_END = END_
AWAIT_AUTH = AUTH_
AWAIT_XCLIENT = XCLIENT_

cdef class Words:
    """What a Lane makes and says.

    Args: see server_lane.pyi.
    """

    cdef object mail, rcpt, data_begin, chunk, end, refused, reply
    cdef object recipient, seven_bit, eight_bit, binary
    cdef object state_mail, state_rcpt, state_data, state_chunks, after_message
    cdef list table
    cdef bytes mail_ok, rcpt_ok, go_on, end_ok
    cdef tuple refusals
    cdef object misuse

    def __init__(
        self, *, tuple events not None, reply, tuple body_types not None, tuple states not None, list table not None,
        tuple replies not None, tuple refusals not None, misuse, recipient,
    ):
        self.mail, self.rcpt, self.data_begin, self.chunk, self.end, self.refused = events
        self.reply = reply
        self.seven_bit, self.eight_bit, self.binary = body_types
        self.state_mail, self.state_rcpt, self.state_data, self.state_chunks, self.after_message = states
        self.table = table
        self.mail_ok, self.rcpt_ok, self.go_on, self.end_ok = replies
        if len(refusals) != 6:
            raise ValueError("six refusals are needed")
        self.refusals = refusals
        self.misuse = misuse
        self.recipient = recipient


include "body_reader.pxi"


cdef class Lane:
    cdef Words words
    cdef readonly object settings
    cdef public object state
    cdef public bint closed
    cdef public bytes _buffer
    cdef public Py_ssize_t _pos
    cdef public bint _eof
    cdef public list _out
    cdef public bint _greeted
    cdef public list _events
    cdef public int _awaiting
    cdef public int _mode
    cdef public int64_t _bad
    cdef public int64_t _junk
    cdef public int64_t _credit
    cdef public object _mail
    cdef public int64_t _recipients
    cdef public BodyReader _body
    cdef public bint _dropped
    cdef public bint _lf_ends
    cdef public bint _plain
    cdef public frozenset _offered
    cdef object knows  # the `_offered` of which `sizes` and `eight_bits` tell
    cdef bint sizes, eight_bits
    cdef int64_t max_message_bytes, max_header_bytes, max_received, max_recipients
    cdef object client, has_room  # of `accept_unasked`
    cdef set addresses
    cdef bint unasked_mail, unasked_rcpt, unasked_data
    cdef list held  # content that `advance` has taken and not told of
    cdef Py_ssize_t held_bytes

    __class_getitem__ = classmethod(GenericAlias)  # the events, replies, settings and states: server_lane.pyi

    def __init__(self, Words words not None, settings, state):
        self.words = words
        self.state = state
        self._buffer = b""
        self._out = []
        self._events = []
        self.held = []
        self._plain = True
        self._offered = frozenset()
        self.use(settings)

    def use(self, settings):
        self.settings = settings
        self._lf_ends = settings.bare_newlines == "normalise"
        self.max_message_bytes = settings.max_message_bytes
        self.max_header_bytes = settings.max_header_bytes
        self.max_received = settings.max_received
        self.max_recipients = settings.max_recipients

    @property
    def in_transaction(self):
        return self.state >= self.words.state_mail

    @property
    def awaits(self):
        if self._mode >= CONTENT_:
            return OCTETS_
        if self._mode == SKIPPING_ or self._pos < PyBytes_GET_SIZE(self._buffer):
            return REST_
        return NEXT_ if self.in_transaction else ANYTHING_

    def receive(self, chunk not None):
        cdef bytes fresh
        if not chunk:
            self._eof = True
            return
        fresh = chunk if isinstance(chunk, bytes) else bytes(chunk)
        if self._pos != PyBytes_GET_SIZE(self._buffer):
            fresh = self._buffer[self._pos:] + fresh
        self._buffer = fresh
        self._pos = 0

    def next_event(self):
        cdef list events = self._events
        while not events:
            if self._awaiting or self.closed or not self.step():
                if self._pos == PyBytes_GET_SIZE(self._buffer):
                    self._buffer = b""  # thousands of idle sessions must not each keep the last read
                    self._pos = 0
                return None
        return events.pop(0)

    cdef bint step(self) except -1:
        """Use up some input. False: more is needed."""
        if self._mode == COMMANDS_:
            if self._plain:
                if self._pos == PyBytes_GET_SIZE(self._buffer) and not self._eof:
                    return False
                if self.plain_command():
                    return True
            return self._step_command()
        if self._mode == CONTENT_:
            return self.step_content()
        if self._mode == CHUNK_:
            return self._step_chunk()
        return self._step_skip()

    def take_output(self):
        cdef list out = self._out
        if not out:
            return b""
        self._greeted = True
        gathered = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return gathered

    def answer(self, verdict=None):
        cdef int awaiting = self._awaiting
        cdef Words words = self.words
        cdef bint accepted = True
        cdef int code = 0
        if awaiting == NOTHING_ or self._events:
            raise words.misuse("no verdict is awaited")
        self._awaiting = NOTHING_
        if verdict is not None:
            code = verdict.code
            accepted = code < 400
        if awaiting == RCPT_:
            if accepted:
                self.state = words.state_rcpt
                self._recipients += 1
            self._out.append(words.rcpt_ok if verdict is None else verdict.wire())
        elif awaiting == END_:
            self._out.append(words.end_ok if verdict is None else verdict.wire())
            if accepted:
                self._bad = self._junk = 0
            self._end_transaction(words.after_message)
        elif awaiting == MAIL_:
            if accepted:
                self.state = words.state_mail
            else:
                self._mail = None
            self._out.append(words.mail_ok if verdict is None else verdict.wire())
        elif awaiting == DATA_ and accepted:
            self.accept_data()
        elif awaiting == DATA_:
            self._refuse_data(verdict)
        elif awaiting == AUTH_:
            self._answer_auth(verdict, accepted)
        elif awaiting == XCLIENT_:
            self._answer_xclient(verdict, accepted)
        else:
            self._answer_helo(verdict, accepted)
        if code == 421:
            self.closed = True

    cpdef _end_transaction(self, state):
        self.state = state
        self._mode = COMMANDS_
        self._mail = self._body = None
        self._recipients = 0
        self._dropped = False
        self.release()

    cdef int accept_data(self) except -1:
        cdef Words words = self.words
        cdef bint chunked = self._mode == CHUNK_
        cdef BodyReader body = BodyReader.__new__(BodyReader)
        body.max_bytes = self.max_message_bytes
        body.max_header_bytes = self.max_header_bytes
        body.max_received = self.max_received
        body.begin(words.refusals, not chunked, self._lf_ends, chunked and self._mail.body_type is words.binary)
        self._body = body
        if chunked:
            self.state = words.state_chunks
        else:
            self.state = words.state_data
            self._mode = CONTENT_
            self._out.append(words.go_on)
        return 0

    # ---- content

    cdef bint step_content(self) except -1:
        cdef BodyReader body = self._body
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._buffer)
        cdef tuple found
        if self._pos == size:
            self.closed = self._eof
            return False
        found = body.feed(self._buffer, self._pos, size)
        self._pos = found[1]
        self._pass_on(found[0])
        if body.ended:
            self._end_of_message()
        return True

    cpdef _pass_on(self, bytes piece):
        """Content to the session, or once the news that the message is refused."""
        cdef BodyReader body = self._body
        if self.held_bytes:
            piece = b"".join([*self.release(), piece])
        if body.refusal is None:
            if PyBytes_GET_SIZE(piece):
                self._events.append(self.words.chunk(piece))
        elif not self._dropped:
            self._dropped = True
            self._events.append(self.words.refused(body.refusal))

    cpdef _end_of_message(self):
        cdef BodyReader body = self._body
        if body.refusal is None:
            self._events.append(body.facts(self.words.end))
            self._awaiting = END_
        else:
            self._out.append(body.refusal.wire())
            self._end_transaction(self.words.after_message)

    # ---- as far as nobody is to be asked

    def accept_unasked(self, client, set addresses not None, has_room, *, bint mail, bint rcpt, bint data):
        self.client = client
        self.addresses = addresses
        self.has_room = has_room
        self.unasked_mail = mail
        self.unasked_rcpt = rcpt
        self.unasked_data = data

    def advance(self, chunk not None):
        self.receive(chunk)
        if self._eof or self.closed or self._awaiting or self._events or not self._plain or self.client is None:
            return None
        while self._pos != PyBytes_GET_SIZE(self._buffer):
            if self._mode == CONTENT_:
                if not self.hold_content():
                    return None
            elif self._mode != COMMANDS_ or not self.plain_command() or not self.accept():
                return None
        self._buffer = b""
        self._pos = 0
        return self.take_output()

    cdef bint accept(self) except -1:
        """Do what the session does with the event of a plain command, if that needs no asking."""
        cdef Words words = self.words
        cdef object client = self.client, address
        cdef list recipients
        if self._awaiting == RCPT_:
            if not self.unasked_rcpt:
                return False
            address = self._events[0].address
            if address not in self.addresses:
                self.addresses.add(address)
                recipients = client.recipients
                recipients.append(words.recipient(address, 0, "", len(recipients)))
            self.state = words.state_rcpt
            self._recipients += 1
            self._out.append(words.rcpt_ok)
        elif self._awaiting == MAIL_:
            if not self.unasked_mail or client.mail is not None or not self.has_room():
                return False
            client.mail = self._mail
            self.state = words.state_mail
            self._out.append(words.mail_ok)
        else:
            if not self.unasked_data or not self.has_room():
                return False
            self.accept_data()
        self._awaiting = NOTHING_
        self._events.clear()
        return True

    cdef bint hold_content(self) except -1:
        """Take in content, and keep it unless it is much, or comes to its end. False: the session has to know."""
        cdef BodyReader body = self._body
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._buffer)
        cdef tuple found
        cdef bytes piece
        found = body.feed(self._buffer, self._pos, size)
        self._pos = found[1]
        piece = found[0]
        if body.ended or body.refusal is not None or self.held_bytes + PyBytes_GET_SIZE(piece) > MOST_HELD_BYTES:
            self._pass_on(piece)
            if body.ended:
                self._end_of_message()
            return False
        if PyBytes_GET_SIZE(piece):
            self.held.append(piece)
            self.held_bytes += PyBytes_GET_SIZE(piece)
        return True

    cdef list release(self):
        cdef list held = self.held
        if self.held_bytes:
            self.held = []
            self.held_bytes = 0
        return held

    # ---- plain commands

    cdef bint plain_command(self) except -1:
        """Take the next line if it is a plain one. False: nothing has been done."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(self._buffer) + self._pos
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._buffer) - self._pos
        if size < 6:
            return False
        if p[4] == c' ':
            if size > 11 and equals_upper(p, 11, "MAIL FROM:<", 11):
                return self.plain_mail(p, size)
            if size > 9 and equals_upper(p, 9, "RCPT TO:<", 9):
                return self.plain_rcpt(p, size)
        elif equals_upper(p, 6, "DATA\r\n", 6):
            return self.plain_data()
        return False

    cdef bint allowed(self, int code) except -1:
        """Whether the table lets the command through in this state."""
        cdef list row = self.words.table[self.state]
        return not isinstance(row[code], self.words.reply)

    cdef int learn(self) except -1:
        self.sizes = "SIZE" in self._offered
        self.eight_bits = "8BITMIME" in self._offered
        self.knows = self._offered
        return 0

    cdef bint plain_mail(self, const unsigned char* p, Py_ssize_t size) except -1:
        cdef Words words = self.words
        cdef Py_ssize_t at = 11, at_sign = 0, end = 0
        cdef int64_t declared = 0
        cdef bint sized = False, eight_bit = False
        cdef object body_type = None
        cdef str address
        if p[at] == c'>':
            address = ""
            end = at
        else:
            end = address_end(p + at, size - at, &at_sign)
            if end < 0:
                return False
            address = address_of(p + at, at_sign, end)
            end += at
        at = end + 1
        if self.knows is not self._offered:
            self.learn()
        while at < size and p[at] == c' ':
            at += 1
            if not sized and self.sizes and size - at > 5 and equals_upper(p + at, 5, "SIZE=", 5):
                at += 5
                declared = number(p + at, size - at, &end)
                if declared < 0 or declared > self.max_message_bytes:
                    return False
                sized = True
                at += end
            elif body_type is None and self.eight_bits and size - at > 9 and equals_upper(p + at, 9, "BODY=7BIT", 9):
                body_type = words.seven_bit
                at += 9
            elif (
                body_type is None and self.eight_bits and size - at > 13
                and equals_upper(p + at, 13, "BODY=8BITMIME", 13)
            ):
                body_type = words.eight_bit
                at += 13
            else:
                return False
        if size - at < 2 or p[at] != c'\r' or p[at + 1] != c'\n' or not self.allowed(VERB_MAIL):
            return False
        self._credit = self.max_recipients + 2
        if body_type is None:
            mail = words.mail(address, declared)
        else:
            mail = words.mail(address, declared, body_type)
        self._mail = mail
        self._pos += at + 2
        self._events.append(mail)
        self._awaiting = MAIL_
        return True

    cdef bint plain_rcpt(self, const unsigned char* p, Py_ssize_t size) except -1:
        cdef Py_ssize_t at = 9, at_sign = 0, end
        cdef str address
        if self._recipients >= self.max_recipients:
            return False
        end = address_end(p + at, size - at, &at_sign)
        if (
            end < 0 or size - at - end < 3 or p[at + end + 1] != c'\r' or p[at + end + 2] != c'\n'
            or not self.allowed(VERB_RCPT)
        ):
            return False
        address = address_of(p + at, at_sign, end)
        self._pos += at + end + 3
        self._events.append(self.words.rcpt(address, address[:at_sign], address[at_sign + 1:]))
        self._awaiting = RCPT_
        return True

    cdef bint plain_data(self) except -1:
        if not self.allowed(VERB_DATA) or self._mail.body_type is self.words.binary:
            return False
        self._pos += 6
        self._events.append(self.words.data_begin)
        self._awaiting = DATA_
        return True
