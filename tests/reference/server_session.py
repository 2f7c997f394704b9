"""A session without socket and spool, in both of the ways in which one may be held: event by event, or with
`Lane.advance` taking what nobody is to be asked about. The first is the oracle of the second: nothing but the way may
differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply
from postroika.smtp.server import Server, ServerSettings
from postroika.smtp.server_events import (
    Auth,
    AuthResponse,
    BodyChunk,
    BodyEnd,
    BodyRefused,
    DataBegin,
    Event,
    Helo,
    Mail,
    Rcpt,
    Refused,
    Reset,
    XClient,
)
from postroika.smtp.xclient import ATTRIBUTES

ALL = frozenset({"mail", "rcpt", "data"})
NO_ROOM = Reply(452, "4.3.1", ("no room",))
WRONG = Reply(535, "5.7.8", ("wrong",))


class Message(NamedTuple):
    """One that was answered with 250."""

    mail: Mail | None
    recipients: tuple[Recipient, ...]
    body: bytes
    end: BodyEnd


def go_on_with_auth(server: Server, event: Auth | AuthResponse) -> None:
    """Who says something at once, or something other than nothing to our challenge, is let in."""
    response = event.initial if isinstance(event, Auth) else event.response
    if response is None:
        server.challenge(b"well?")
    else:
        server.answer(None if response else WRONG)


class Heard(NamedTuple):
    """What came of a dialogue: all replies, the messages, what was refused."""

    replies: bytes
    messages: tuple[Message, ...]
    refused: tuple[Event, ...]
    closed: bool


class ServerSession:
    """One session. Accepts all commands as long as fewer messages have come than it has room for.

    Args:
        unasked: the stages that nobody judges; None: event by event, without a plain lane.
    """

    def __init__(self, settings: ServerSettings, unasked: Collection[str] | None, room: int) -> None:
        self.mail: Mail | None = None
        self.recipients: list[Recipient] = []
        self._addresses: set[str] = set()
        self._body = b""
        self._room = room
        self._messages: list[Message] = []
        self._refused: list[Event] = []
        self._replies = b""
        self._server = server = Server(settings)
        server.mechanisms = ("PLAIN", "LOGIN") if settings.auth else ()
        server.xclient = ATTRIBUTES if settings.auth else ()
        self._advances = unasked is not None
        if unasked is None:
            server._plain = False
        else:
            server.accept_unasked(
                self,
                self._addresses,
                self._has_room,
                mail="mail" in unasked,
                rcpt="rcpt" in unasked,
                data="data" in unasked,
            )

    def hold(self, pieces: Iterable[bytes]) -> Heard:
        for piece in pieces:
            if self._server.closed:
                break
            self._receive(piece)
        return Heard(self._replies, tuple(self._messages), tuple(self._refused), self._server.closed)

    def _has_room(self) -> bool:
        return len(self._messages) < self._room

    def _receive(self, piece: bytes) -> None:
        server = self._server
        if self._advances:
            output = server.advance(piece)
            if output is not None:
                self._replies += output
                assert server.next_event() is None
                return
        else:
            server.receive(piece)
        while (event := server.next_event()) is not None:
            self._act(event)
        self._replies += server.take_output()

    def _act(self, event: Event) -> None:
        verdict = None if self._has_room() else NO_ROOM
        if isinstance(event, Mail):
            if verdict is None:
                self._forget()
                self.mail = event
            self._server.answer(verdict)
        elif isinstance(event, Rcpt):
            if event.address not in self._addresses:
                self._addresses.add(event.address)
                self.recipients.append(Recipient(event.address, event.notify, event.orcpt, len(self.recipients)))
            self._server.answer()
        elif isinstance(event, DataBegin):
            self._server.answer(verdict)
        elif isinstance(event, Helo | XClient):
            self._server.answer()
        elif isinstance(event, Auth | AuthResponse):
            go_on_with_auth(self._server, event)
        elif isinstance(event, BodyChunk):
            self._body += event.piece
        elif isinstance(event, BodyEnd):
            self._messages.append(Message(self.mail, tuple(self.recipients), self._body, event))
            self._server.answer()
            self._forget()
        elif isinstance(event, Reset):
            self._forget()
        elif isinstance(event, BodyRefused | Refused):
            self._refused.append(event)
            if isinstance(event, BodyRefused):
                self._body = b""

    def _forget(self) -> None:
        self.mail, self.recipients, self._body = None, [], b""
        self._addresses.clear()
