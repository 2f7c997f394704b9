"""The session part of the SMTP client: greeting, EHLO, QUIT, and the way of bytes in and out. Pure.

Promise: what is kept of a server's words is bounded, whatever it says. `client` adds the transactions.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections import deque

import msgspec

from postroika.errors import LocalProtocolError, RemoteProtocolError
from postroika.kernels.replies import ReplyParser
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_capabilities import Capabilities, parse_capabilities
from postroika.smtp.client_transaction import Closed, Event, Ready, Refused

# As much as one line may have; four times what RFC 5321 §4.5.3.1.5 allows a line to have.
MAX_TEXT_CHARS = 2048


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to speak.

    Args:
        ehlo_name: what to call ourselves.
        pipelining, chunking: use them where they are offered.
        depth: how many transactions may be under way at once.
        one_write_bytes: a body up to this size goes with its RCPTs in one write where CHUNKING is offered. A larger
            one waits for their replies: it could be in vain.
        max_reply_line_bytes, max_reply_lines: a peer that exceeds them breaks the protocol.
    """

    ehlo_name: str
    pipelining: bool = True
    chunking: bool = True
    depth: int = 2
    one_write_bytes: int = 256 * 1024
    max_reply_line_bytes: int = 2048
    max_reply_lines: int = 128


class Phase(enum.Enum):
    """How far the session has come."""

    GREETING = enum.auto()
    EHLO = enum.auto()
    HELO = enum.auto()
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
        self.replies = 0
        self._parser = ReplyParser(settings.max_reply_line_bytes, settings.max_reply_lines)
        self._phase = Phase.GREETING
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
            parsed = parser.next()
            if parsed is None:
                return
            self.replies += 1
            reply = Reply(*parsed) if len(parsed[2]) == 1 or self._phase is Phase.EHLO else _clipped(*parsed)
            if self._phase is not READY:
                _SESSION_TABLE[self._phase](self, reply)
            elif self.busy:
                self._on_reply(reply)
            else:
                self._on_unasked(reply)

    def _on_greeting(self, reply: Reply) -> None:
        if reply.kind == 2:
            self._phase = Phase.EHLO
            self._put(f"EHLO {self.settings.ehlo_name}\r\n".encode())
        else:
            self._refuse(Stage.GREETING, reply)

    def _on_ehlo(self, reply: Reply) -> None:
        if reply.kind == 2:
            self._stand(parse_capabilities(reply))
        elif reply.kind == 5:
            self._phase = Phase.HELO
            self._put(f"HELO {self.settings.ehlo_name}\r\n".encode())
        else:
            self._refuse(Stage.EHLO, reply)

    def _on_helo(self, reply: Reply) -> None:
        if reply.kind == 2:
            self._stand(Capabilities())
        else:
            self._refuse(Stage.EHLO, reply)

    def _stand(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._pipelining = capabilities.pipelining and self.settings.pipelining
        self._max_mails = capabilities.max_messages
        self._phase = Phase.READY
        self._events.append(Ready(capabilities))

    def _refuse(self, stage: Stage, reply: Reply) -> None:
        if reply.kind == 3:
            raise odd(reply, stage.value)
        self._phase = Phase.REFUSED
        self._events.append(Refused(stage, reply))

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


_SESSION_TABLE = {
    Phase.GREETING: SessionBase._on_greeting,
    Phase.EHLO: SessionBase._on_ehlo,
    Phase.HELO: SessionBase._on_helo,
    Phase.REFUSED: SessionBase._on_quit,
    Phase.QUIT: SessionBase._on_quit,
}
