"""The session part of the SMTP client: greeting, EHLO, STARTTLS, AUTH, QUIT, and the way of bytes in and out. Pure.

Promise: what is kept of a server's words is bounded, whatever it says. What was said in clear is worth nothing once
there is TLS: octets that came before the handshake end the session, and the server is asked anew what it offers
(RFC 3207 §4.2). `client` adds the transactions.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections import deque

import msgspec

from postroika.errors import LocalProtocolError, RemoteProtocolError
from postroika.kernels.replies import ReplyParser
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply, reply
from postroika.smtp.client_auth import Credentials, Login
from postroika.smtp.client_capabilities import Capabilities, parse_capabilities
from postroika.smtp.client_transaction import Closed, Event, Ready, Refused, TlsWanted

# As much as one line may have; four times what RFC 5321 §4.5.3.1.5 allows a line to have.
MAX_TEXT_CHARS = 2048


class StartTls(enum.Enum):
    """When to ask for TLS."""

    NEVER = enum.auto()
    OFFERED = enum.auto()  # Whoever offers it and then refuses is spoken to in clear.
    REQUIRED = enum.auto()


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to speak.

    Args:
        ehlo_name: what to call ourselves.
        pipelining, chunking: use them where they are offered.
        depth: how many transactions may be under way at once.
        one_write_bytes: a body up to this size goes with its RCPTs in one write where CHUNKING is offered. A larger
            one waits for their replies: it could be in vain.
        max_reply_line_bytes, max_reply_lines: a peer that exceeds them breaks the protocol.
        starttls: when to ask for TLS; of no effect where there is TLS already.
        credentials: whom to log in as; None = nobody.
        auth_without_tls: log in in clear, too.
    """

    ehlo_name: str
    pipelining: bool = True
    chunking: bool = True
    depth: int = 2
    one_write_bytes: int = 256 * 1024
    max_reply_line_bytes: int = 2048
    max_reply_lines: int = 128
    starttls: StartTls = StartTls.NEVER
    credentials: Credentials | None = None
    auth_without_tls: bool = False


class Phase(enum.Enum):
    """How far the session has come."""

    GREETING = enum.auto()
    EHLO = enum.auto()
    HELO = enum.auto()
    STARTTLS = enum.auto()
    HANDSHAKE = enum.auto()
    AUTH = enum.auto()
    REFUSED = enum.auto()
    READY = enum.auto()
    QUIT = enum.auto()
    CLOSED = enum.auto()


READY, CLOSED = Phase.READY, Phase.CLOSED  # a member of an enum takes ten times as long to look up


class SessionBase(ABC):
    """A session without transactions; see `client.Client`."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.capabilities = Capabilities()
        self.greeting: Reply | None = None
        self.replies = 0
        self._parser = ReplyParser(settings.max_reply_line_bytes, settings.max_reply_lines)
        self._phase = Phase.GREETING
        self._secure = False
        self._login: Login | None = None
        self._pipelining = False
        self._max_mails = 0
        self._events: deque[Event] = deque()
        self._out: list[bytes] = []
        self._produced = 0  # octets that were ever put into _out …
        self._taken = 0  # … and those of them that were given away
        self._eof = False

    @property
    @abstractmethod
    def busy(self) -> bool:
        """A transaction is under way."""

    @abstractmethod
    def _pass_group(self) -> bool:
        """If the next replies are what was hoped for, to all of a group of commands, take them at once."""

    @abstractmethod
    def _on_reply(self, reply: Reply) -> None:
        """A reply to the first transaction under way."""

    @property
    def closed(self) -> bool:
        """Nothing more will come."""
        return self._phase is CLOSED

    @property
    def ended(self) -> bool:
        """The server's stream has ended; what it said before may still be unread by `next_event`."""
        return self._eof

    def receive(self, chunk: bytes) -> None:
        """Take what the server sent; b"" is the end of the stream."""
        if chunk:
            self._parser.feed(chunk)
        else:
            self._eof = True

    def secured(self) -> None:
        """There is TLS now: after TlsWanted, or before the greeting.

        Raises:
            LocalProtocolError: at any other time.
        """
        if self._phase is Phase.HANDSHAKE:
            self.capabilities = Capabilities()
            self._greet_anew()
        elif self._phase is not Phase.GREETING or self._secure:
            raise LocalProtocolError("secured() in the middle of something")
        self._secure = True

    def take_output(self) -> list[bytes]:
        """What to send now, in pieces that belong into one write. Empty if there is nothing."""
        out = self._out
        if out:
            self._out = []
            self._taken = self._produced
        return out

    def quit(self) -> None:
        """Take leave; Closed follows. Does nothing on a connection that is closed already.

        Raises:
            LocalProtocolError: a transaction is under way, or the server has not greeted yet.
        """
        if self._phase is Phase.CLOSED:
            return
        if self.busy or self._phase not in {Phase.READY, Phase.REFUSED}:
            raise LocalProtocolError("quit() in the middle of something")
        self._phase = Phase.QUIT
        self._put(b"QUIT\r\n")

    def _put(self, piece: bytes) -> None:
        self._out.append(piece)
        self._produced += len(piece)

    def _read_replies(self) -> None:
        """Act on replies until one of them is an event."""
        parser, events = self._parser, self._events
        while not events and self._phase is not CLOSED:
            if self._pass_group():
                continue
            try:
                parsed = parser.next()
            except RemoteProtocolError as error:
                if self._login is None:
                    raise
                # It quotes a part of what was said, perhaps half of a password.
                raise RemoteProtocolError(str(error).partition(":")[0]) from None
            if parsed is None:
                return
            self.replies += 1
            reply = Reply(*parsed) if len(parsed[2]) == 1 or self._phase is Phase.EHLO else _clipped(*parsed)
            if self._login is not None:
                reply = self._login.without_secrets(reply, answered=self._phase is Phase.AUTH)
            if self._phase is not READY:
                _SESSION_TABLE[self._phase](self, reply)
            elif self.busy:
                self._on_reply(reply)
            else:
                self._on_unasked(reply)

    def _on_greeting(self, reply: Reply) -> None:
        self.greeting = reply
        if reply.kind == 2:
            self._greet_anew()
        else:
            self._refuse(Stage.GREETING, reply)

    def _greet_anew(self) -> None:
        self._phase = Phase.EHLO
        self._put(f"EHLO {self.settings.ehlo_name}\r\n".encode())

    def _on_ehlo(self, reply: Reply) -> None:
        if reply.kind == 2:
            self._secure_or_stand(parse_capabilities(reply))
        elif reply.kind == 5:
            self._phase = Phase.HELO
            self._put(f"HELO {self.settings.ehlo_name}\r\n".encode())
        else:
            self._refuse(Stage.EHLO, reply)

    def _on_helo(self, reply: Reply) -> None:
        if reply.kind == 2:
            self._secure_or_stand(Capabilities())
        else:
            self._refuse(Stage.EHLO, reply)

    def _secure_or_stand(self, capabilities: Capabilities) -> None:
        """Ask for TLS, if it is to be and is not there, before anything else."""
        starttls = self.settings.starttls
        self.capabilities = capabilities
        if self._secure or starttls is StartTls.NEVER or (starttls is StartTls.OFFERED and not capabilities.starttls):
            self._log_in_or_stand()
        elif capabilities.starttls:
            self._phase = Phase.STARTTLS
            self._put(b"STARTTLS\r\n")
        else:
            self._refuse(Stage.TLS, _TLS_NOT_OFFERED, remote=False)

    def _on_starttls(self, reply: Reply) -> None:
        """The answer to STARTTLS. It must not be one that came before the question, nor bring anything with it: who
        can write into the connection would have us take its words for those of the server behind TLS."""
        self._not_before_asked(reply, "STARTTLS")
        if reply.kind == 2:
            if self._parser.unfinished:
                raise RemoteProtocolError("something came behind the answer to STARTTLS, before the handshake")
            self._phase = Phase.HANDSHAKE
            self._events.append(TlsWanted())
        elif reply.kind == 3:
            raise odd(reply, "STARTTLS")
        elif self.settings.starttls is StartTls.REQUIRED or reply.code == 421:
            self._refuse(Stage.TLS, reply)
        else:
            self._log_in_or_stand()

    def _on_handshake(self, reply: Reply) -> None:
        raise RemoteProtocolError(f"a reply in the middle of the handshake: {reply}")

    def _log_in_or_stand(self) -> None:
        """Log in, if that is to be; then the session stands."""
        credentials = self.settings.credentials
        if credentials is None:
            self._stand(self.capabilities)
            return
        self._login = Login(credentials, self.capabilities.auth)
        if not (self._secure or self.settings.auth_without_tls):
            self._refuse(Stage.AUTH, _AUTH_NEEDS_TLS, remote=False)
        elif not self._login.mechanism:
            self._refuse(Stage.AUTH, _NO_MECHANISM, remote=False)
        else:
            self._phase = Phase.AUTH
            self._put(self._login.first())

    def _on_auth(self, reply: Reply) -> None:
        login = self._login
        assert login is not None
        self._not_before_asked(reply, "AUTH")
        if reply.kind == 2:
            self._stand(self.capabilities)
        elif reply.kind == 3:
            answer = login.answer()
            if answer is None:
                raise odd(reply, "AUTH")
            self._put(answer)
        else:
            self._refuse(Stage.AUTH, reply)

    def _not_before_asked(self, reply: Reply, command: str) -> None:
        if self._produced > self._taken:
            raise RemoteProtocolError(f"an answer to {command} before it was sent: {reply}")

    def _stand(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._pipelining = capabilities.pipelining and self.settings.pipelining
        self._max_mails = capabilities.max_messages
        self._phase = Phase.READY
        self._events.append(Ready(capabilities))

    def _refuse(self, stage: Stage, reply: Reply, *, remote: bool = True) -> None:
        if reply.kind == 3:
            raise odd(reply, stage.value)
        self._phase = Phase.REFUSED
        self._events.append(Refused(stage, reply, remote))

    def _on_quit(self, reply: Reply) -> None:
        self._phase = Phase.CLOSED
        self._events.append(Closed(reply if reply.code == 421 else None))

    def _on_unasked(self, reply: Reply) -> None:
        if reply.code != 421:
            raise RemoteProtocolError(f"a reply to nothing: {reply}")
        self._phase = Phase.CLOSED
        self._events.append(Closed(reply))


def _clipped(code: int, enhanced: str, lines: tuple[str, ...]) -> Reply:
    """The reply without what is beyond the first MAX_TEXT_CHARS: it is kept for every recipient, and in the spool."""
    kept = []
    room = MAX_TEXT_CHARS
    for line in lines:
        if len(line) > room:
            break
        kept.append(line)
        room -= len(line) + 1
    return Reply(code, enhanced, tuple(kept) or (lines[0][:MAX_TEXT_CHARS],))


def odd(reply: Reply, command: str) -> RemoteProtocolError:
    """The error for a reply of a kind that `command` cannot have."""
    return RemoteProtocolError(f"not an answer to {command}: {reply}")


# Enhanced codes as Postfix gives them in these cases.
_TLS_NOT_OFFERED = reply(451, "4.7.4", "TLS is required, but was not offered")
_AUTH_NEEDS_TLS = reply(451, "4.7.0", "logging in needs TLS, which there is none of")
_NO_MECHANISM = reply(451, "4.7.0", "logging in is possible neither with PLAIN nor with LOGIN")

_SESSION_TABLE = {
    Phase.GREETING: SessionBase._on_greeting,
    Phase.EHLO: SessionBase._on_ehlo,
    Phase.HELO: SessionBase._on_helo,
    Phase.STARTTLS: SessionBase._on_starttls,
    Phase.HANDSHAKE: SessionBase._on_handshake,
    Phase.AUTH: SessionBase._on_auth,
    Phase.REFUSED: SessionBase._on_quit,
    Phase.QUIT: SessionBase._on_quit,
}
