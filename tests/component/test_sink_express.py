"""The express lane of the sink against the Server: nobody can tell from outside which of them answers."""

from __future__ import annotations

import contextlib
import socket

from hypothesis import given
from hypothesis import strategies as st

from postroika.bench.pump import READ, Pump
from postroika.bench.sink import Counts, Message, Sink, SinkSettings
from postroika.bench.sink_session import Session
from postroika.mail.reply import reply
from postroika.smtp.server import EXTENSIONS
from tests.component.sink_world import marked

_DOWN = reply(421, "4.3.2", "down")
LIMITED = SinkSettings(max_recipients=3, max_message_bytes=2000, messages_per_connection=4)
SOME_SETTINGS = (
    SinkSettings(),
    LIMITED,
    SinkSettings(extensions=frozenset()),
    SinkSettings(extensions=EXTENSIONS - {"CHUNKING", "DSN"}),
)

HELLOS = [b"EHLO c.test\r\n", b"HELO c.test\r\n"]
MAILS = [
    b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<a@x.test>\r\n",
    b"MAIL FROM:<a@x.test> SIZE=100 BODY=8BITMIME\r\n",
    b"MAIL FROM:<a+b=c@x-y.test> BODY=7BIT SIZE=1999\r\n",
]
ODD_MAILS = [
    b"mail from:<a@x.test>\r\n",
    b"MAIL FROM: <a@x.test>\r\n",
    b"MAIL FROM:<A.b@X.test>\r\n",
    b"MAIL FROM:<a@x.test> SIZE=2001\r\n",
    b"MAIL FROM:<a@x.test> SIZE=1 SIZE=1\r\n",
    b"MAIL FROM:<a@x.test> SIZE=99999999999999999999\r\n",
    b"MAIL FROM:<a@x.test> BODY=BINARYMIME\r\n",
    b"MAIL FROM:<a@x.test> SIZE=5 \r\n",
    b"MAIL FROM:<a@x.test>SIZE=5\r\n",
    b"MAIL FROM:<a@x.test> RET=HDRS ENVID=x\r\n",
    b"MAIL FROM:<a@-x.test>\r\n",
    b"MAIL FROM:<a..b@x.test>\r\n",
    b"MAIL FROM:<a@x..test>\r\n",
    b"MAIL FROM:<a@x.test.>\r\n",
    b"MAIL FROM:<a>\r\n",
    b'MAIL FROM:<"a b"@x.test>\r\n',
    b"MAIL FROM:<\xc3\xa9@x.test>\r\n",
    b"MAIL FROM:<a@x.test\r\n",
    b"MAIL FROM:<a@x.test>\n",
    b"MAIL\0FROM:<a@x.test>\r\n",
    b"MAIL FROM:<" + b"a" * 513 + b"@x.test>\r\n",
    b"MAIL FROM:<a@" + b"x" * 64 + b".test>\r\n",
    b"MAIL FROM:<a@" + b"x." * 140 + b"test>\r\n",
    b"MAIL FROM:<a@" + b"x." * 126 + b"test>\r\n",
]
RCPTS = [
    b"RCPT TO:<r0@y.test>\r\n",
    b"RCPT TO:<r1@y.test>\r\n",
    b"RCPT TO:<o'neil!#$%&*/?^`{|}~@a_b.c-d.test> ORCPT=rfc822;o-neil@y.test\r\n",
]
ODD_RCPTS = [
    b"RCPT TO:<r0@y.test> ORCPT=rfc822;a+2Bb@y.test\r\n",
    b"RCPT TO:<r0@y.test> ORCPT=rfc822;\r\n",
    b"RCPT TO:<r0@y.test> NOTIFY=NEVER\r\n",
    b"RCPT TO:<r0@Y.test>\r\n",
    b"RCPT TO:<postmaster>\r\n",
    b"RCPT TO:<>\r\n",
    b"RCPT TO:<@a,@b:r0@y.test>\r\n",
    b"RCPT TO:<r0@[127.0.0.1]>\r\n",
    b"rcpt to:<r0@y.test>\r\n",
    b"RCPT TO:<r0@y.test>\r\r\n",
]
CONTENTS = [
    b"DATA\r\n.\r\n",
    b"DATA\r\nSubject: x\r\n\r\n..\r\n.dot\r\n.\r\n",
    b"DATA\r\n" + marked(3) + b".\r\n",
    b"DATA\r\n" + marked(3) + b"\nspoilt\r\n.\r\n",
    b"DATA\r\n" + marked(4, body=b"0123456789\r\n" * 300) + b".\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 12 LAST\r\na: b\r\n\r\n.\r\n\r",
    b"BDAT 11 LAST\r\na: b\r\n\r\n.\0\r\n",
    b"BDAT 11 LAST\r\na: b\r\n\r\n.\r\n",
]
ODD_CONTENTS = [
    b"data\r\na: b\r\n.\r\n",
    b"DATA \r\n",
    b"BDAT 6\r\na: b\r\nBDAT 2 LAST\r\n\r\n",
    b"BDAT 5 last\r\nabc\r\n",
    b"BDAT 2001 LAST\r\n" + b"x" * 2001,
    b"BDAT x LAST\r\n",
    b"BDAT 99999999999999999999 LAST\r\n",
]
OTHERS = [
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"HELP\r\n",
    b"QUIT\r\n",
    b"\r\n",
    b"BOGUS\r\n",
    b"\x16\x03\x01",
    b".",
]

ORDINARY = st.tuples(
    st.sampled_from(MAILS), st.lists(st.sampled_from(RCPTS), min_size=1, max_size=4).map(b"".join),
    st.sampled_from(CONTENTS),
).map(b"".join)  # fmt: skip
ODD = st.sampled_from([*MAILS, *ODD_MAILS, *RCPTS, *ODD_RCPTS, *CONTENTS, *ODD_CONTENTS, *OTHERS, *HELLOS])


def _talk(
    settings: SinkSettings,
    pieces: list[bytes],
    *,
    express: bool,
    replies: tuple[bytes, bytes, bytes, bytes] | None = None,
) -> tuple[list[bytes], list[Message], Counts]:
    """What is said after each piece, what is told, and the counts.

    Args:
        express: with the express lane.
        replies: what that says in place of the Server's words.
    """
    told: list[Message] = []
    ours, theirs = socket.socketpair()
    with ours, Pump() as pump:
        sink = Sink(settings, pump, told.append)
        sink.obliging = express
        sink.hub = sink.make_hub(replies) if replies else sink.hub
        theirs.setblocking(False)
        ours.setblocking(False)
        session = Session(sink, theirs, "local", ())
        session.begin()
        said = []
        for piece in (b"", *pieces):
            with contextlib.suppress(BrokenPipeError):
                if piece:
                    ours.sendall(piece)
                    session.on_ready(READ)
            try:
                said.append(ours.recv(1 << 20))
            except BlockingIOError:
                said.append(b"-")
            except ConnectionResetError:
                said.append(b"")
            if theirs.fileno() < 0:
                said.append(b"closed")
                break
        sink.stop()
        if theirs.fileno() >= 0:
            session.shut_down(_DOWN)
        counts = sink.counts
        counts.first_at = counts.last_at = 0.0
        return said, told, counts


def _cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    pieces.append(stream[at:])
    return [piece for piece in pieces if piece]


@given(
    settings=st.sampled_from(SOME_SETTINGS),
    hello=st.sampled_from(HELLOS),
    parts=st.lists(st.one_of(ORDINARY, ORDINARY, ODD), min_size=1, max_size=8),
    sizes=st.lists(st.one_of(st.integers(1, 40), st.integers(1, 4000)), max_size=20),
)
def test_any_dialogue_gets_the_same_replies_at_the_same_time(
    settings: SinkSettings, hello: bytes, parts: list[bytes], sizes: list[int]
) -> None:
    pieces = [hello, *_cut(b"".join(parts), sizes)]
    assert _talk(settings, pieces, express=True) == _talk(settings, pieces, express=False)


@given(parts=st.lists(ORDINARY, min_size=1, max_size=4), data=st.data())
def test_dialogue_with_an_octet_changed_gets_the_same_replies(parts: list[bytes], data: st.DataObject) -> None:
    stream = bytearray(b"".join(parts))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(stream) - 1))
        octet = data.draw(st.sampled_from(b'\0\r\n \t.<>@:;=-+_aA9"\\\x80\xc3\x16'))
        if data.draw(st.booleans()):
            stream[at] = octet
        else:
            stream.insert(at, octet)
    pieces = [b"EHLO c.test\r\n", *_cut(bytes(stream), data.draw(st.lists(st.integers(1, 60), max_size=5)))]
    for settings in SOME_SETTINGS[:2]:
        assert _talk(settings, pieces, express=True) == _talk(settings, pieces, express=False)


def test_ordinary_mail_goes_by_the_express_lane_alone() -> None:
    """Else the comparisons above would compare the Server with itself."""
    pieces = [HELLOS[0], b"".join((*MAILS[1:2], *RCPTS, CONTENTS[2])) * 2, b"QUIT\r\n"]
    said, told, _ = _talk(SinkSettings(), pieces, express=True, replies=(b"mail ", b"rcpt ", b"data ", b"end "))
    assert said[2:] == [
        b"mail rcpt rcpt rcpt data end " * 2,
        b"221 2.0.0 sink.localhost closing the connection\r\n",
        b"closed",
    ]
    recipients = ("r0@y.test", "r1@y.test", "o'neil!#$%&*/?^`{|}~@a_b.c-d.test")
    assert told == [Message("a@x.test", recipients, len(marked(3)) - 1, "local", "c.test")] * 2
