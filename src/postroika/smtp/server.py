"""The server side of SMTP as a sans-IO protocol: bytes in, events and reply bytes out.

Promise: what a client sends is understood in one way only, however TCP has cut it. Commands and messages end at
CR LF (CR LF . CR LF, or the count of BDAT) and nowhere else; replies come out in the order of the commands; every
buffer is bounded; what comes after a refused DATA or BDAT is never run as commands, nor is what comes after STARTTLS.
Short commands with long replies make no heap of these, if it `pauses`.

How: `receive` keeps the bytes, `next_event` takes them apart until there is something that the session has to know.
Events marked * in `server_events` stop the machine until `answer` gives the verdict. Replies pile up until
`take_output`. Which command is allowed when is in the table of `states`; what arguments mean is in `grammar`;
the content of messages is watched by `kernels.server_lane`, which also takes plain commands without asking here.
Below this are `server_login` (AUTH, XCLIENT), `server_chunks` (BDAT) and `server_base` (lines, refusals, limits).
Source: RFC 5321, 1870, 2034, 2920, 3030, 3207, 3461, 4954, 6152, 6531, 9422; Postfix XCLIENT_README.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from postroika.kernels import command
from postroika.kernels.command import scan_command
from postroika.kernels.server_lane import AWAIT_DATA, AWAIT_HELO, AWAIT_MAIL, AWAIT_RCPT
from postroika.mail.envelope import BodyType
from postroika.mail.reply import Reply, reply
from postroika.smtp.body import TOO_LARGE
from postroika.smtp.grammar import MAX_HELO_NAME, Refusal, parse_mail, parse_rcpt, printable_name
from postroika.smtp.server_base import (
    LINE_BARE_CR,
    LINE_BARE_LF,
    LINE_NUL,
    LINE_TOO_LONG,
    MAX_COMMAND_BYTES,
    OK,
)
from postroika.smtp.server_events import DataBegin, Helo, Quit, Reset, StartTls
from postroika.smtp.server_login import LoginServer
from postroika.smtp.server_settings import EXTENSIONS, ServerSettings, greetings
from postroika.smtp.states import State

__all__ = ["EXTENSIONS", "MOST_OUTPUT_BYTES", "Server", "ServerSettings"]

MOST_OUTPUT_BYTES = 16_384  # then it is to be sent before the next command, if the server `pauses`
_REPLIES_APART = 32  # that are not counted yet: how many octets they are is looked at together
_JUNK = frozenset({command.NOOP, command.RSET, command.VRFY, command.HELP})  # and EHLO, once it is answered
_VRFY = reply(252, "2.5.0", "cannot verify the address, but will take mail for it and try to deliver").wire()
_HELP = reply(214, "2.0.0", "RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT").wire()
_NO_ARGUMENT = reply(501, "5.5.4", "this command takes no argument")
_BINARY_DATA = reply(503, "5.5.1", "BODY=BINARYMIME needs BDAT")
_BEGIN_TLS = reply(220, "2.0.0", "ready to start TLS").wire()
_NOT_SMTP = "that is not SMTP"
_TLS_RECORD = b"\x16\x03"  # a handshake (RFC 8446 §5.1)
_NO_TLS = reply(502, "5.5.1", "STARTTLS is not offered")
_IN_TLS = reply(503, "5.5.1", "TLS has begun already")


class Server(LoginServer):
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

    __slots__ = ("_says_ehlo", "pauses")

    def __init__(self, settings: ServerSettings, *, greet: bool = True) -> None:
        super().__init__(settings, greet=greet)
        self.pauses = False
        self._says_ehlo = False

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
            if code in _JUNK:
                self._count_junk()
        return True

    def _skip_command(self, refusal: Reply, start: int) -> None:
        self._skip(refusal, start)
        self._guard_chunk(start)

    def _guard_chunk(self, start: int) -> None:
        """After a line that is refused for its octets: if it may have been BDAT, a chunk is behind it."""
        if self._buffer[start : start + 4].upper() == b"BDAT":
            self._give_up("what follows BDAT cannot be told apart", b"")

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
            self._count_junk()
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
        self._count_junk()

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
        command.AUTH: LoginServer._auth_command,
        command.XCLIENT: LoginServer._xclient_command,
    }
