"""The server side of AUTH and XCLIENT: commands by which it changes who the client is.

Promise: a line that answers a challenge is never run as a command, nor a command taken for an answer; what is said to
log in is in the events alone. Source: RFC 4954; Postfix XCLIENT_README.
"""

from __future__ import annotations

from base64 import b64encode

from postroika.errors import LocalProtocolError
from postroika.kernels import command
from postroika.kernels.server_lane import AWAIT_AUTH, AWAIT_XCLIENT, NOTHING
from postroika.mail.reply import Reply, reply
from postroika.smtp.grammar import Refusal, parse_auth, parse_base64
from postroika.smtp.server_base import LINE_BARE_LF, MAX_RESPONSE_BYTES, RESPONSE_TOO_LONG
from postroika.smtp.server_chunks import ChunkingServer
from postroika.smtp.server_events import Auth, AuthResponse, Refused
from postroika.smtp.server_settings import ServerSettings, greetings
from postroika.smtp.states import State
from postroika.smtp.xclient import parse_xclient

_AUTHENTICATED = reply(235, "2.7.0", "authentication succeeded").wire()
_NO_AUTH = reply(502, "5.5.1", "AUTH is not offered")
_NEEDS_TLS = reply(538, "5.7.11", "AUTH is offered under TLS only")
_AUTH_TWICE = reply(503, "5.5.1", "already authenticated")
_CANCELLED = reply(501, "5.7.0", "authentication cancelled")
_NO_XCLIENT = reply(550, "5.7.1", "XCLIENT is not for you")


class LoginServer(ChunkingServer):
    """Lets clients log in, and proxies tell of them; see `Server`."""

    __slots__ = ("_mechanisms", "authenticated", "esmtp", "mechanisms", "xclient")

    def __init__(self, settings: ServerSettings, *, greet: bool = True) -> None:
        super().__init__(settings, greet=greet)
        self.esmtp = False
        self.mechanisms: tuple[str, ...] = ()
        self.authenticated = False
        self.xclient: tuple[str, ...] = ()
        self._mechanisms: tuple[str, ...] = ()  # offered by the last EHLO

    def challenge(self, octets: bytes) -> None:
        """Ask for a response, in place of `answer`, after Auth or AuthResponse.

        Raises:
            LocalProtocolError: neither waits for a verdict.
        """
        if self._awaiting != AWAIT_AUTH:
            raise LocalProtocolError("no authentication exchange waits for us")
        self._awaiting = NOTHING
        self._out.append(b"334 " + b64encode(octets) + b"\r\n")

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
                self._events.append(Refused("auth", error.reply))  # without what came: it may be a password
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
            self._events.append(Refused("auth", RESPONSE_TOO_LONG))
            self._skip(RESPONSE_TOO_LONG, start)
            return True
        if lf < 0:
            self.closed = self._eof
            return False
        stop = lf - 1 if buffer.endswith(b"\r", start, lf) else lf
        if stop == lf and not self._lf_ends:
            self.state = State.READY
            self._events.append(Refused("auth", LINE_BARE_LF))
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
            if error.reply is not _CANCELLED:
                self._events.append(Refused("auth", error.reply))
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
        self._credit = self._junk = 0
        self.esmtp = self.authenticated = False
        self._mechanisms = ()
        self._offered = frozenset()
        self._out.append(greetings(self.settings)[0])
