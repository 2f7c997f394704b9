"""The server side of SMTP as a sans-IO protocol: bytes in, events and reply bytes out.

Promise: what a client sends is understood in one way only, however TCP has cut it. Commands and messages end at
CR LF (CR LF . CR LF, or the count of BDAT) and nowhere else; replies come out in the order of the commands; every
buffer is bounded; what comes after a refused DATA or BDAT is never run as commands, nor is what comes after STARTTLS.
Short commands with long replies make no heap of these, if it `pauses`.

How: `receive` keeps the bytes, `next_event` takes them apart until there is something that the session has to know.
Events marked * in `server_events` stop the machine until `answer` gives the verdict. Replies pile up until
`take_output`. Which command is allowed when is in the table of `states`; what arguments mean is in `grammar`;
the content of messages is watched by `kernels.server_lane`, which also takes plain commands without asking here.
Source: RFC 5321, 1870, 2034, 2920, 3030, 3207, 3461, 4954, 6152, 6531, 9422; Postfix XCLIENT_README.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import ClassVar

from postroika.errors import LocalProtocolError
from postroika.kernels import command
from postroika.kernels.command import scan_command
from postroika.kernels.server_lane import (
    AWAIT_AUTH,
    AWAIT_DATA,
    AWAIT_HELO,
    AWAIT_MAIL,
    AWAIT_RCPT,
    AWAIT_XCLIENT,
    CHUNK,
    COMMANDS,
    NOTHING,
)
from postroika.mail.envelope import BodyType
from postroika.mail.reply import Reply, reply
from postroika.smtp.body import TOO_LARGE
from postroika.smtp.grammar import (
    MAX_HELO_NAME,
    Refusal,
    parse_auth,
    parse_base64,
    parse_bdat,
    parse_mail,
    parse_rcpt,
    printable_name,
)
from postroika.smtp.server_base import (
    LINE_BARE_CR,
    LINE_BARE_LF,
    LINE_NUL,
    LINE_TOO_LONG,
    MAX_COMMAND_BYTES,
    MAX_RESPONSE_BYTES,
    OK,
    RESPONSE_TOO_LONG,
    ServerBase,
)
from postroika.smtp.server_events import Auth, AuthResponse, BodyRefused, DataBegin, Helo, Quit, Reset, StartTls
from postroika.smtp.server_settings import EXTENSIONS, ServerSettings, greetings
from postroika.smtp.states import AFTER_REFUSED_CHUNK, AFTER_REFUSED_LAST_CHUNK, State
from postroika.smtp.xclient import parse_xclient

__all__ = ["EXTENSIONS", "MOST_OUTPUT_BYTES", "Server", "ServerSettings"]

MOST_OUTPUT_BYTES = 16_384  # then it is to be sent before the next command, if the server `pauses`
_REPLIES_APART = 32  # that are not counted yet: how many octets they are is looked at together
_VRFY = reply(252, "2.5.0", "cannot verify the address, but will take mail for it and try to deliver").wire()
_HELP = reply(214, "2.0.0", "RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT").wire()
_NO_ARGUMENT = reply(501, "5.5.4", "this command takes no argument")
_BINARY_DATA = reply(503, "5.5.1", "BODY=BINARYMIME needs BDAT")
_BAD_BDAT = reply(501, "5.5.4", "syntax: BDAT octets [LAST]; closing, as what follows cannot be told apart")
_NO_CHUNKING = reply(502, "5.5.1", "BDAT is not offered")
_BEGIN_TLS = reply(220, "2.0.0", "ready to start TLS").wire()
_NOT_SMTP = "that is not SMTP"
_TLS_RECORD = b"\x16\x03"  # a handshake (RFC 8446 §5.1)
_NO_TLS = reply(502, "5.5.1", "STARTTLS is not offered")
_IN_TLS = reply(503, "5.5.1", "TLS has begun already")
_AUTHENTICATED = reply(235, "2.7.0", "authentication succeeded").wire()
_NO_AUTH = reply(502, "5.5.1", "AUTH is not offered")
_NEEDS_TLS = reply(538, "5.7.11", "AUTH is offered under TLS only")
_AUTH_TWICE = reply(503, "5.5.1", "already authenticated")
_NO_XCLIENT = reply(550, "5.7.1", "XCLIENT is not for you")
_CANCELLED = reply(501, "5.7.0", "authentication cancelled")


class Server(ServerBase):
    """One SMTP session as the server sees it. The banner is in the output from the start.

    `state` is where the session is; `closed` says that nothing more is read: send the output, then close (or, after
    `StartTls`, go on with a Server that does not greet).

    Attributes:
        mechanisms: of AUTH, that the next EHLO offers; none if clients may not log in on this connection as it is.
        pauses: once MOST_OUTPUT_BYTES or more are in the output, `next_event` returns None though there may be commands
            left: take the output, and ask again before more is received.
        authenticated: a client has logged in.
        xclient: attributes that the peer may tell of the client with XCLIENT; none if it may not use that.
    """

    __slots__ = (
        "_chunk_last", "_chunk_left", "_chunk_refusal", "_mechanisms", "_says_ehlo", "authenticated", "esmtp",
        "mechanisms", "pauses", "xclient",
    )  # fmt: skip

    def __init__(self, settings: ServerSettings, *, greet: bool = True) -> None:
        super().__init__(settings, greet=greet)
        self.esmtp = False
        self.mechanisms: tuple[str, ...] = ()
        self.pauses = False
        self.authenticated = False
        self.xclient: tuple[str, ...] = ()
        self._mechanisms: tuple[str, ...] = ()  # offered by the last EHLO
        self._says_ehlo = False
        self._chunk_left = 0
        self._chunk_last = False
        self._chunk_refusal: Reply | None = None

    def challenge(self, octets: bytes) -> None:
        """Ask for a response, in place of `answer`, after Auth or AuthResponse.

        Raises:
            LocalProtocolError: neither waits for a verdict.
        """
        if self._awaiting != AWAIT_AUTH:
            raise LocalProtocolError("no authentication exchange waits for us")
        self._awaiting = NOTHING
        self._out.append(b"334 " + b64encode(octets) + b"\r\n")

    @property
    def full(self) -> bool:
        """There are MOST_OUTPUT_BYTES or more in the output, give or take a few replies."""
        out = self._out
        if len(out) > _REPLIES_APART:
            out[:] = [b"".join(out)]
        return bool(out) and len(out[0]) >= MOST_OUTPUT_BYTES

    def _step_command(self) -> bool:
        if self.pauses and self.full:
            return False
        if self.state is State.AUTH:
            return self._step_response()
        buffer, start = self._buffer, self._pos
        code, argument, behind = scan_command(buffer, start, self._lf_ends)
        if code == command.INCOMPLETE:
            if self._eof:
                self.closed = True
            elif len(buffer) - start > MAX_COMMAND_BYTES:
                self._skip_command(LINE_TOO_LONG, start)
                return True
            return False
        if behind - start > MAX_COMMAND_BYTES:
            self._skip_command(LINE_TOO_LONG, start)
            return True
        if code == command.BARE_LF:
            # The rest up to CR LF still belongs to this line: what hides in it must not become a second command.
            self._skip_command(LINE_BARE_LF, start)
            return True
        self._pos = behind
        if code < 0:
            self._out.append((LINE_NUL if code == command.NUL else LINE_BARE_CR).wire())
            self._count_bad()
            self._guard_chunk(start)
            return True
        if code == command.FOREIGN:
            line = buffer[start:behind]
            began_tls = line.startswith(_TLS_RECORD)
            self._give_up("that is TLS, and a session begins in the clear here" if began_tls else _NOT_SMTP, line)
            return True
        entry = self._table[self.state][code]
        if code == command.STARTTLS and self.settings.tls == "none":
            entry = _NO_TLS
        if code == command.BDAT:
            self._bdat(argument, entry)
        elif isinstance(entry, Reply):
            self._refuse(code, entry, argument)
        else:
            self._HANDLERS[code](self, argument)
        return True

    def _skip_command(self, refusal: Reply, start: int) -> None:
        self._skip(refusal, start)
        self._guard_chunk(start)

    def _guard_chunk(self, start: int) -> None:
        """After a line that is refused for its octets: if it may have been BDAT, a chunk is behind it."""
        if self._buffer[start : start + 4].upper() == b"BDAT":
            self._give_up("what follows BDAT cannot be told apart", b"")

    def _step_chunk(self) -> bool:
        left = self._chunk_left
        if left:
            start = self._pos
            stop = min(start + left, len(self._buffer))
            if start == stop:
                self.closed = self._eof
                return False
            self._pos = stop
            self._chunk_left = left - (stop - start)
            if self._chunk_refusal is None:
                body = self._body
                assert body is not None
                piece, _ = body.feed(self._buffer, start, stop)
                self._pass_on(piece)
                self._chunk_refusal = body.refusal
            return True
        self._mode = COMMANDS
        self._end_of_chunk()
        return True

    def _end_of_chunk(self) -> None:
        refusal, body = self._chunk_refusal, self._body
        if refusal is None and self._chunk_last:
            assert body is not None
            self._pass_on(body.finish())
            self._end_of_message()
        elif refusal is None:
            self._out.append(OK)
        else:
            self._out.append(refusal.wire())
            if self._chunk_last:
                if self.in_transaction and not self._dropped:
                    self._events.append(Reset())
                self._end_transaction(AFTER_REFUSED_LAST_CHUNK[self.state])
            else:
                self.state = AFTER_REFUSED_CHUNK[self.state]

    # ---- commands that the table allows

    def _hello(self, verb: str, argument: bytes, code: int) -> None:
        if not argument or len(argument) > MAX_HELO_NAME:
            self._refuse(code, reply(501, "5.5.4", f"syntax: {verb} hostname"), argument)
            return
        self._events.append(Helo(verb, printable_name(argument)))
        self._awaiting = AWAIT_HELO
        self._says_ehlo = verb == "EHLO"

    def _ehlo_command(self, argument: bytes) -> None:
        self._hello("EHLO", argument, command.EHLO)

    def _helo_command(self, argument: bytes) -> None:
        self._hello("HELO", argument, command.HELO)

    def _answer_helo(self, verdict: Reply | None, accepted: bool) -> None:
        if not accepted:
            assert verdict is not None
            self._out.append(verdict.wire())
            return
        if self.in_transaction:
            self._events.append(Reset())
        self._end_transaction(State.READY)
        self._credit = 0
        self.esmtp = self._says_ehlo
        self._mechanisms = self.mechanisms if self.esmtp else ()
        self._offered = self.settings.offered() if self.esmtp else frozenset()
        if self._mechanisms:
            self._offered |= {"AUTH"}
        self._out.append(greetings(self.settings, self._mechanisms, self.xclient)[2 if self.esmtp else 1])

    def _auth_command(self, argument: bytes) -> None:
        if not self.settings.auth:
            self._refuse(command.AUTH, _NO_AUTH, argument)
        elif self.authenticated:
            self._refuse(command.AUTH, _AUTH_TWICE, argument)
        elif not self._mechanisms:
            self._refuse(command.AUTH, _NO_AUTH if self.mechanisms else _NEEDS_TLS, argument)
        else:
            try:
                mechanism, initial = parse_auth(argument, self._mechanisms)
            except Refusal as error:
                self._refuse(command.AUTH, error.reply, argument)
                return
            self.state = State.AUTH
            self._events.append(Auth(mechanism, initial))
            self._awaiting = AWAIT_AUTH

    def _step_response(self) -> bool:
        """The next line of an authentication exchange: no verb is looked for in it."""
        buffer, start = self._buffer, self._pos
        lf = buffer.find(b"\n", start)
        if (len(buffer) if lf < 0 else lf + 1) - start > MAX_RESPONSE_BYTES:
            self.state = State.READY
            self._skip(RESPONSE_TOO_LONG, start)
            return True
        if lf < 0:
            self.closed = self._eof
            return False
        stop = lf - 1 if buffer.endswith(b"\r", start, lf) else lf
        if stop == lf and not self._lf_ends:
            self.state = State.READY
            self._skip(LINE_BARE_LF, start)
            return True
        self._pos = lf + 1
        line = buffer[start:stop]
        try:
            if line == b"*":
                raise Refusal(_CANCELLED)
            response = parse_base64(line)
        except Refusal as error:
            self.state = State.READY
            self._out.append(error.reply.wire())
            self._count_bad()
            return True
        self._events.append(AuthResponse(response))
        self._awaiting = AWAIT_AUTH
        return True

    def _answer_auth(self, verdict: Reply | None, accepted: bool) -> None:
        self.state = State.READY
        self.authenticated = accepted
        self._out.append(_AUTHENTICATED if verdict is None else verdict.wire())

    def _xclient_command(self, argument: bytes) -> None:
        if not self.xclient:
            self._refuse(command.XCLIENT, _NO_XCLIENT, argument)
            return
        try:
            told = parse_xclient(argument, self.xclient)
        except Refusal as error:
            self._refuse(command.XCLIENT, error.reply, argument)
            return
        self._events.append(told)
        self._awaiting = AWAIT_XCLIENT

    def _answer_xclient(self, verdict: Reply | None, accepted: bool) -> None:
        if not accepted:
            assert verdict is not None
            self._out.append(verdict.wire())
            return
        self.state = State.START
        self._credit = 0
        self.esmtp = self.authenticated = False
        self._mechanisms = ()
        self._offered = frozenset()
        self._out.append(greetings(self.settings)[0])

    def _mail_command(self, argument: bytes) -> None:
        settings = self.settings
        self._credit = settings.max_recipients + 2
        try:
            mail = parse_mail(argument, self._offered)
        except Refusal as error:
            self._refuse(command.MAIL, error.reply, argument)
            return
        if mail.size_bytes > settings.max_message_bytes:
            self._refuse(command.MAIL, TOO_LARGE, argument, bad=False)
            return
        self._mail = mail
        self._events.append(mail)
        self._awaiting = AWAIT_MAIL

    def _rcpt_command(self, argument: bytes) -> None:
        assert self._mail is not None
        if self._recipients >= self.settings.max_recipients:
            self._refuse(command.RCPT, reply(452, "4.5.3", "too many recipients"), argument, bad=False)
            return
        try:
            rcpt = parse_rcpt(argument, self._offered, self._mail.smtputf8)
        except Refusal as error:
            self._refuse(command.RCPT, error.reply, argument)
            return
        self._events.append(rcpt)
        self._awaiting = AWAIT_RCPT

    def _data_command(self, argument: bytes) -> None:
        assert self._mail is not None
        if argument:
            self._refuse(command.DATA, _NO_ARGUMENT, argument)
        elif self._mail.body_type is BodyType.BINARY:
            self._refuse(command.DATA, _BINARY_DATA, argument)  # RFC 3030 §3
        else:
            self._chunk_last = False
            self._events.append(DataBegin(chunked=False))
            self._awaiting = AWAIT_DATA

    def _refuse_data(self, verdict: Reply) -> None:
        if self._mode == CHUNK:
            self._chunk_refusal = verdict  # said after the chunk (RFC 3030 §2)
        else:
            self._out.append(verdict.wire())
            self._guard_commands()

    def _bdat(self, argument: bytes, entry: State | Reply) -> None:
        """BDAT in any state: the octets that it announces are consumed whatever becomes of them (RFC 3030 §2)."""
        parsed = parse_bdat(argument)
        if parsed is None:
            self._refuse(command.BDAT, _BAD_BDAT, argument)
            self.closed = True
            return
        size, self._chunk_last = parsed
        self._chunk_left = size
        self._chunk_refusal = None
        self._mode = CHUNK
        before = self._body.size_bytes if self._body is not None else 0
        if isinstance(entry, Reply):
            self._refuse_chunk(entry, argument)
        elif "CHUNKING" not in self._offered:
            self._refuse_chunk(_NO_CHUNKING, argument)
        elif before + size > self.settings.max_message_bytes:
            if self._body is None:
                self._refuse_chunk(TOO_LARGE, argument)
            else:
                self._chunk_refusal = TOO_LARGE
                self._dropped = True
                self._events.append(BodyRefused(TOO_LARGE))
        elif self._body is None:
            self._events.append(DataBegin(chunked=True))
            self._awaiting = AWAIT_DATA

    def _refuse_chunk(self, refusal: Reply, argument: bytes) -> None:
        """Like `_refuse`, but the reply has to wait until the chunk is over."""
        self._chunk_refusal = refusal
        self._note_refusal(command.BDAT, refusal, argument, bad=True)

    def _rset_command(self, argument: bytes) -> None:
        if argument:
            self._refuse(command.RSET, _NO_ARGUMENT, argument)
            return
        if self.in_transaction:
            self._events.append(Reset())
            self._end_transaction(State.READY)
        self._credit = 0
        self._out.append(OK)

    def _noop_command(self, argument: bytes) -> None:
        del argument  # RFC 5321 §4.1.1.9: allowed, and ignored
        self._out.append(OK)

    def _quit_command(self, argument: bytes) -> None:
        if argument:
            self._refuse(command.QUIT, _NO_ARGUMENT, argument)
            return
        self._out.append(reply(221, "2.0.0", f"{self.settings.hostname} closing the connection").wire())
        self._events.append(Quit())
        self.closed = True

    def _starttls_command(self, argument: bytes) -> None:
        if argument:
            self._refuse(command.STARTTLS, _NO_ARGUMENT, argument)
        elif self.settings.tls == "active":
            self._refuse(command.STARTTLS, _IN_TLS, argument)
        else:
            if self.in_transaction:
                self._events.append(Reset())
                self._end_transaction(State.START)
            self.state = State.START
            self._out.append(_BEGIN_TLS)
            self._events.append(StartTls())
            # What a third party has put behind STARTTLS must not be run as if the client had said it in TLS.
            self.closed = True

    def _vrfy_command(self, argument: bytes) -> None:
        if argument:
            self._out.append(_VRFY)
        else:
            self._refuse(command.VRFY, reply(501, "5.5.4", "syntax: VRFY address"), argument)

    def _help_command(self, argument: bytes) -> None:
        del argument
        self._out.append(_HELP)

    _HANDLERS: ClassVar[dict[int, Callable[[Server, bytes], None]]] = {
        command.EHLO: _ehlo_command,
        command.HELO: _helo_command,
        command.MAIL: _mail_command,
        command.RCPT: _rcpt_command,
        command.DATA: _data_command,
        command.RSET: _rset_command,
        command.NOOP: _noop_command,
        command.QUIT: _quit_command,
        command.VRFY: _vrfy_command,
        command.HELP: _help_command,
        command.STARTTLS: _starttls_command,
        command.AUTH: _auth_command,
        command.XCLIENT: _xclient_command,
    }
