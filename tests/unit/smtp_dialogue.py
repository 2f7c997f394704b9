"""Speaks with an smtp.server.Server: feeds it octets in any cut, gives verdicts, gathers what it says.

Each dialogue is held twice, with and without the lane that takes plain commands, and must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

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
    XClient,
)
from tests.reference.server_session import go_on_with_auth

SETTINGS = ServerSettings(
    hostname="mx.test",
    max_message_bytes=1000,
    max_recipients=3,
    max_bad_commands=3,
    max_received=2,
    max_header_bytes=300,
)
# The reply to it, with these settings.
EHLO = (
    "250-mx.test\n250-PIPELINING\n250-SIZE 1000\n250-8BITMIME\n250-SMTPUTF8\n250-CHUNKING\n250-BINARYMIME\n250-DSN\n"
    "250-ENHANCEDSTATUSCODES\n250 LIMITS RCPTMAX=3\n"
)
JUDGED = (Helo, XClient, Mail, Rcpt, DataBegin, BodyEnd)
Judge = Callable[[Event], Reply | None]


@dataclass(frozen=True)
class Dialogue:
    """What came of it.

    Replies as text with bare LF, without the banner. Events with neighbouring pieces joined, and without the pieces of
    a message that was then refused: how many of them came before depends on the cut.
    """

    replies: str
    events: tuple[Event, ...]
    closed: bool

    @property
    def bodies(self) -> list[bytes]:
        """Content in the order in which it was received, finished or not."""
        return [event.piece for event in self.events if isinstance(event, BodyChunk)]


def accept_all(event: Event) -> Reply | None:
    return None


def talk(
    pieces: Iterable[bytes],
    settings: ServerSettings = SETTINGS,
    judge: Judge = accept_all,
    xclient: tuple[str, ...] = (),
) -> Dialogue:
    pieces = list(pieces)
    verdicts: list[Reply | None] = []

    def decide(event: Event) -> Reply | None:
        verdicts.append(judge(event))
        return verdicts[-1]

    dialogue = _talk(pieces, settings, decide, xclient, plain=True)
    given = iter(verdicts)
    assert _talk(pieces, settings, lambda _: next(given), xclient, plain=False) == dialogue
    return dialogue


def _talk(
    pieces: Iterable[bytes], settings: ServerSettings, judge: Judge, xclient: tuple[str, ...], *, plain: bool
) -> Dialogue:
    server = Server(settings)
    server._plain = plain
    server.xclient = xclient
    server.mechanisms = ("PLAIN", "LOGIN") if settings.auth else ()
    assert server.take_output() == b"220 mx.test ESMTP Postroika\r\n"
    events: list[Event] = []
    output = b""
    for piece in pieces:
        server.receive(piece)
        while (event := server.next_event()) is not None:
            if isinstance(event, BodyChunk) and events and isinstance(events[-1], BodyChunk):
                events[-1] = BodyChunk(events[-1].piece + event.piece)
            else:
                if isinstance(event, BodyRefused) and isinstance(events[-1], BodyChunk):
                    events.pop()
                events.append(event)
            if isinstance(event, JUDGED):
                server.answer(judge(event))
            elif isinstance(event, Auth | AuthResponse):
                go_on_with_auth(server, event)
        output += server.take_output()
        if server.closed:
            break
    assert output.replace(b"\r\n", b"").count(b"\n") == 0
    return Dialogue(output.replace(b"\r\n", b"\n").decode(), tuple(events), server.closed)


def cuts(wire: bytes) -> Iterator[list[bytes]]:
    """The wire octet by octet, and in two at each place."""
    yield [wire[i : i + 1] for i in range(len(wire))]
    for at in range(1, len(wire)):
        yield [wire[:at], wire[at:]]


def talk_in_all_cuts(
    wire: bytes,
    settings: ServerSettings = SETTINGS,
    judge: Judge = accept_all,
    xclient: tuple[str, ...] = (),
) -> Dialogue:
    """The dialogue, which must be the same however TCP splits it."""
    whole = talk([wire], settings, judge, xclient)
    for pieces in cuts(wire):
        assert talk(pieces, settings, judge, xclient) == whole, pieces
    return whole
