"""kernels.server_lane: plain commands mean what they mean to the Server; content is judged as by its twin."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.kernels.server_lane import BodyReader, Lane, Words
from postroika.mail.envelope import BodyType, Recipient
from postroika.smtp.server import EXTENSIONS, Server, ServerSettings
from postroika.smtp.server_events import BodyChunk, BodyEnd, Event, Mail, Rcpt
from tests.reference import body as reference
from tests.reference.server_session import ALL, ServerSession
from tests.unit.smtp_dialogue import SETTINGS, cuts, talk, talk_in_all_cuts


class Watched(Server):
    """Counts the commands that the lane has left."""

    left = 0

    def _step_command(self) -> bool:
        type(self).left += 1
        return super()._step_command()


def taken(wire: bytes) -> tuple[list[Event], int]:
    """The events behind EHLO, and how many looks at commands were left to the Server."""
    server = Watched(SETTINGS)
    server.receive(b"EHLO c\r\n")
    server.next_event()
    server.answer()
    assert server.next_event() is None
    Watched.left = 0
    server.receive(wire)
    events: list[Event] = []
    while (event := server.next_event()) is not None:
        events.append(event)
        if isinstance(event, Mail | Rcpt):
            server.answer()
    return events, Watched.left


@pytest.mark.parametrize(
    ("wire", "event"),
    [
        (b"MAIL FROM:<a@b>\r\n", Mail("a@b")),
        (b"MAIL FROM:<>\r\n", Mail("")),
        (b"mail From:<a.B!#$%&'*+/=?^_`{|}~-@B-c.Example_1> size=0900 Body=8bitmime\r\n",
         Mail("a.B!#$%&'*+/=?^_`{|}~-@b-c.example_1", 900, BodyType.EIGHT_BIT)),
        (b"MAIL FROM:<a@b> BODY=7BIT SIZE=1000\r\n", Mail("a@b", 1000)),
        (b"MAIL FROM:<%s@%s>\r\n" % (b"l" * 512, b".".join([b"d" * 63] * 3)),
         Mail("l" * 512 + "@" + ".".join(["d" * 63] * 3))),
    ],
)  # fmt: skip
def test_plain_mail_is_taken(wire: bytes, event: Mail) -> None:
    assert taken(wire) == ([event], 0)
    assert talk_in_all_cuts(b"EHLO c\r\n" + wire).events[-1] == event


def test_plain_recipients_and_data_are_taken_up_to_the_limit() -> None:
    recipients = b"RCPT TO:<c@D.Example>\r\nrcpt to:<e.f@g>\r\nRCPT TO:<h@i>\r\n"
    events, left = taken(b"MAIL FROM:<a@b>\r\n" + recipients + b"data\r\n")
    assert (events[1:4], left) == (
        [Rcpt("c@d.example", "c", "d.example"), Rcpt("e.f@g", "e.f", "g"), Rcpt("h@i", "h", "i")],
        0,
    )
    assert len(events) == 5
    assert taken(b"MAIL FROM:<a@b>\r\n" + recipients + b"RCPT TO:<h@i>\r\n")[1] == 1


@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM: <a@b>", b"MAIL FROM:<a@b> ", b"MAIL FROM:<a@b>  SIZE=1", b"MAIL FROM:<a@b> SIZE=1001",
        b"MAIL FROM:<a@b> SIZE=1 SIZE=1", b"MAIL FROM:<a@b> SIZE=", b"MAIL FROM:<a@b> SIZE=1x",
        b"MAIL FROM:<a@b> SIZE=" + b"9" * 19, b"MAIL FROM:<a@b> BODY=7BITS", b"MAIL FROM:<a@b> BODY=7BIT BODY=7BIT",
        b"MAIL FROM:<a@b> BODY=BINARYMIME", b"MAIL FROM:<a@b> SMTPUTF8", b"MAIL FROM:<a@b>x", b"MAIL FROM:<a@b",
        b"MAIL FROM:<a>", b"MAIL FROM:<@r:a@b>", b'MAIL FROM:<"a"@b>', b"MAIL FROM:<.a@b>", b"MAIL FROM:<a.@b>",
        b"MAIL FROM:<a..c@b>", b"MAIL FROM:<@b>", b"MAIL FROM:<a@>", b"MAIL FROM:<a@-b>", b"MAIL FROM:<a@b->",
        b"MAIL FROM:<a@b.>", b"MAIL FROM:<a@.b>", b"MAIL FROM:<a@b..c>", b"MAIL FROM:<a@[192.0.2.1]>",
        b"MAIL FROM:<\xc3\xa4@b>", b"MAIL FROM:<a@\xc3\xa4>", b"MAIL FROM:<a\0@b>", b"MAIL FROM:<a\r@b>",
        b"MAIL FROM:<a@b\n>", b"MAIL FROM:<%s@b>" % (b"l" * 513), b"MAIL FROM:<a@%s>" % (b"d" * 64),
        b"MAIL FROM:<a@%s>" % b".".join([b"d" * 63] * 5), b"RCPT TO:<a@b>", b"DATA", b"DATA x", b"MAIL",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left(line: bytes) -> None:
    assert taken(line + b"\r\n")[1] > 0
    talk([b"EHLO c\r\n" + line + b"\r\n"])


# ---- whatever comes, in any cut and with anything offered

BITS = st.sampled_from([
    b"MAIL FROM:<a@b.example>\r\n", b"MAIL FROM:<", b"mail from:<", b"RCPT TO:<", b"RCPT TO:<c@D.example>\r\n",
    b"DATA\r\n", b"a", b"a.b", b"@", b"B.example", b".", b"-", b">", b" ", b"SIZE=", b"900", b"1001", b"BODY=", b"7BIT",
    b"8bitmime", b"BINARYMIME", b"SMTPUTF8", b"\r\n", b"\r\n", b"\r", b"\n", b"\0", b"\xc3\xa4", b"x\r\n.\r\n",
    b".\r\n", b"..", b"RSET\r\n", b"BDAT 2 LAST\r\n", b"STARTTLS\r\n", b"QUIT\r\n",
    b"AUTH PLAIN\r\n", b"AUTH LOGIN AAAA\r\n", b"AAAA\r\n", b"*\r\n",
])  # fmt: skip
TLS = st.sampled_from(["none", "offered", "active"])
OFFERS = st.sets(st.sampled_from(sorted(EXTENSIONS))).map(lambda less: EXTENSIONS - less)


@given(
    bits=st.lists(BITS, max_size=40),
    hello=st.sampled_from([b"EHLO c\r\n", b"HELO c\r\n", b""]),
    offers=OFFERS,
    normalise=st.booleans(),
    tls=TLS,
    auth=st.booleans(),
    at=st.lists(st.integers(min_value=0, max_value=400), max_size=6),
)
def test_lane_makes_no_difference(
    bits: list[bytes], hello: bytes, offers: frozenset[str], normalise: bool, tls: str, auth: bool, at: list[int]
) -> None:
    settings = msgspec.structs.replace(
        SETTINGS,
        extensions=offers,
        bare_newlines="normalise" if normalise else "refuse",
        max_bad_commands=9,
        max_junk_commands=4,
        tls=tls,
        auth=auth,
    )
    wire = hello + b"".join(bits)
    at = [0, *sorted(at), len(wire)]
    talk([wire[a:b] for a, b in itertools.pairwise(at) if a < b], settings)  # which compares


# ---- as far as nobody is to be asked


def held(pieces: list[bytes], settings: ServerSettings = SETTINGS, room: int = 2) -> None:
    expected = ServerSession(settings, None, room).hold(pieces)
    for unasked in (ALL, frozenset({"mail", "data"}), frozenset({"rcpt"}), frozenset[str]()):
        assert ServerSession(settings, unasked, room).hold(pieces) == expected, unasked


@given(
    bits=st.lists(BITS, max_size=40),
    hello=st.sampled_from([b"EHLO c\r\n", b"HELO c\r\n", b""]),
    offers=OFFERS,
    normalise=st.booleans(),
    tls=TLS,
    auth=st.booleans(),
    at=st.lists(st.integers(min_value=0, max_value=400), max_size=6),
    room=st.integers(min_value=0, max_value=2),
)
def test_nothing_differs_where_nobody_is_asked(
    bits: list[bytes],
    hello: bytes,
    offers: frozenset[str],
    normalise: bool,
    tls: str,
    auth: bool,
    at: list[int],
    room: int,
) -> None:
    settings = msgspec.structs.replace(
        SETTINGS,
        extensions=offers,
        bare_newlines="normalise" if normalise else "refuse",
        max_bad_commands=9,
        max_junk_commands=4,
        tls=tls,
        auth=auth,
    )
    wire = hello + b"".join(bits)
    at = [0, *sorted(at), len(wire)]
    held([wire[a:b] for a, b in itertools.pairwise(at) if a < b], settings, room)


MESSAGE = (
    b"MAIL FROM:<a@b> SIZE=9\r\nRCPT TO:<c@d>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\nDATA\r\nx: y\r\n\r\n..\r\n.\r\n"
)


@pytest.mark.parametrize(
    "wire",
    [
        MESSAGE + MESSAGE.replace(b"a@b", b"") + MESSAGE + b"QUIT\r\n",
        MESSAGE.replace(b"x: y", b"x\0y") + MESSAGE,
        MESSAGE.replace(b"x: y", b"x: y\r\n" * 400) + MESSAGE,
        MESSAGE.replace(b"DATA\r\n", b"BDAT 3\r\nabcBDAT 0 LAST\r\nNOOP\r\nDATA\r\n"),
        MESSAGE.replace(b"RCPT TO:<e@d>", b"RCPT TO:<e@d> NOTIFY=NEVER") + b"RSET\r\n",
    ],
)
def test_dialogue_is_the_same_in_any_cut(wire: bytes) -> None:
    for pieces in cuts(b"EHLO c\r\n" + wire):
        held(pieces)


def test_what_is_plain_needs_no_events() -> None:
    session = ServerSession(SETTINGS, ALL, 1)
    session.hold([b"EHLO c\r\n"])
    server = session._server
    assert server.advance(b"MAIL FROM:<a@b>\r\n") == b"250 2.1.0 Ok\r\n"
    assert server.advance(b"RCPT TO:<c@d>\r\nRCPT TO:<C@D>\r\n") == b"250 2.1.5 Ok\r\n" * 2
    assert (session.mail, session.recipients) == (Mail("a@b"), [Recipient("c@d"), Recipient("C@d", number=1)])
    assert server.advance(b"DATA\r\nx") == b"354 End data with <CR><LF>.<CR><LF>\r\n"
    assert server.advance(b": y\r\n.") == b""
    assert server.advance(b"\r\n") is None
    assert server.next_event() == BodyChunk(b"x: y\r\n")
    assert server.next_event() == BodyEnd(6, False, False, 4, 0, False)


def test_much_content_is_told_before_its_end() -> None:
    settings = msgspec.structs.replace(SETTINGS, max_message_bytes=1_000_000)
    session = ServerSession(settings, ALL, 1)
    session.hold([b"EHLO c\r\n" + MESSAGE[: MESSAGE.index(b"DATA")]])
    server = session._server
    piece = b"x" * 98 + b"\r\n"
    assert server.advance(b"DATA\r\n" + piece) == b"354 End data with <CR><LF>.<CR><LF>\r\n"
    kept = 1
    while server.advance(piece) is not None:
        kept += 1
    assert kept == 655  # 64 KiB
    assert server.next_event() == BodyChunk(piece * (kept + 1))
    assert server.next_event() is None
    assert server.advance(piece) == b""


# ---- content

NAMES = ("NUL", "bare LF", "bare CR", "size", "loop", "header")
LIMITS = {"max_bytes": 60, "max_header_bytes": 40, "max_received": 1}
CONTENT = st.lists(
    st.sampled_from([
        b"\r\n", b"\r\n.\r\n", b".", b"..", b"\r", b"\n", b"\0", b"\xff", b"a", b"Received: x\r\n", b"X: y\r\n",
        b"z" * 15,
    ]),
    max_size=12,
)  # fmt: skip


@given(
    pieces=CONTENT,
    kind=st.sampled_from([(True, False, False), (True, True, False), (False, False, False), (False, True, True)]),
)
def test_content_is_judged_as_by_its_twin(pieces: list[bytes], kind: tuple[bool, bool, bool]) -> None:
    dotted, normalise, binary = kind
    body = BodyReader(NAMES, dotted=dotted, normalise=normalise, binary=binary, **LIMITS)
    wire = b""
    expected: str | None = None
    for piece in pieces:
        _, behind = body.feed(piece, 0, len(piece))
        wire += piece
        if expected is None:
            expected = reference.flaw(wire, dotted=dotted, normalise=normalise, binary=binary, **LIMITS)
        assert body.refusal == expected
        if body.ended:
            assert 0 < behind <= len(piece)
            break


def test_facts_are_those_of_the_content() -> None:
    settings = msgspec.structs.replace(SETTINGS, max_received=2)
    wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nReceived: x\r\nS: \xc3\xa4\r\n\r\n..longest\r\n.\r\n"
    assert talk_in_all_cuts(wire, settings).events[-1] == BodyEnd(32, True, True, 11, 1, False)


def test_lane_needs_its_words_whole() -> None:
    server = Server(SETTINGS)
    assert isinstance(server, Lane)
    with pytest.raises(ValueError, match="six refusals"):
        Words(
            events=(None,) * 6, reply=int, body_types=(0, 1, 2), states=(0,) * 5, table=[],
            replies=(b"",) * 4, refusals=(), misuse=ValueError, recipient=Recipient,
        )  # fmt: skip
