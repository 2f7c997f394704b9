"""inbound.session on a socket pair: dialogues, deadlines, shutdown, broken clients."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from postroika.errors import SpoolDoubtError, SpoolFullError
from postroika.mail.envelope import BodyType, Notify, Recipient
from postroika.mail.reply import Reply, reply
from postroika.policy.pipeline import Client, Pipeline
from postroika.pump import Wake
from postroika.smtp.server_events import Helo, Mail, Rcpt
from tests.component.smtp_client import GREETED, LIMITS, Inbound

BEGIN = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
LONG = b"more than a session keeps before it begins to store\r\n" * 1500
BEGUN = "250 2.1.0 Ok\n250 2.1.5 Ok\n354 End data with <CR><LF>.<CR><LF>\n"
QUEUED = "250 2.0.0 Ok: queued as 0000000000001\n"
BYE = "221 2.0.0 mx.test closing the connection\n"
TIMED_OUT = "421 4.4.2 timeout: closing the connection\n"
SHUTTING_DOWN = "421 4.3.2 the service is shutting down, please try again\n"
NO_ROOM = "452 4.3.1 insufficient system storage, please try again later\n"
STAMP = (
    b"Received: from client.example ([10.0.0.1])\r\n\tby mx.test (Postroika) with ESMTP id 0000000000001\r\n"
    b"\tfor <c@d.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
)


async def test_message_is_handed_over_whole_with_our_stamp_first(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    assert await inbound.say(BEGIN) == BEGUN
    assert await inbound.say(b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n") == QUEUED + BYE
    assert await inbound.read() == ""
    await inbound.ended.wait()
    (message,) = inbound.spool.kept
    assert message.body == STAMP + b"Subject: x\r\n\r\n.\r\n"
    assert message.facts == {
        "reverse_path": "a@b.example",
        "recipients": [Recipient("c@d.example")],
        "body_type": BodyType.SEVEN_BIT,
        "eight_bit": False,
        "smtputf8": False,
        "utf8_needed": False,
        "ret": "",
        "envid": "",
        "client_ip": "10.0.0.1",
        "client_helo": "client.example",
        "tenant": "",
        "account": "",
        "requiretls": False,
        "tls": "",
        "ours": True,
    }
    assert inbound.events == []


async def test_mail_of_a_stranger_is_stored_as_that(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery, ip="203.0.113.66")
    await inbound.greet()
    assert await inbound.say(BEGIN.replace(b"d.example", b"ours.example")) == BEGUN
    assert await inbound.say(b"From: ceo@ours.example\r\n\r\nx\r\n.\r\n") == QUEUED
    (message,) = inbound.spool.kept
    assert message.facts is not None
    assert message.facts["ours"] is False


async def test_all_that_was_asked_for_is_in_the_envelope(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(
        "MAIL FROM:<> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e\r\n"
        "RCPT TO:<ä@d.example> NOTIFY=SUCCESS ORCPT=rfc822;x@y\r\n"
        "RCPT TO:<PostMaster>\r\nRCPT TO:<ä@D.example>\r\nDATA\r\n".encode()
    )
    assert await inbound.say(b"\r\n\xff\r\n.\r\n") == QUEUED
    (message,) = inbound.spool.kept
    assert message.body.startswith(
        b"Received: from client.example ([10.0.0.1])\r\n\tby mx.test (Postroika) with UTF8SMTP id "
    )
    assert b"for <" not in message.body
    assert message.facts is not None
    assert message.facts["recipients"] == [
        Recipient("ä@d.example", Notify.SUCCESS, "rfc822;x@y", 0),
        Recipient("PostMaster@mx.test", 0, "", 1),
    ]
    told = ("reverse_path", "body_type", "eight_bit", "smtputf8", "utf8_needed", "ret", "envid")
    assert [message.facts[fact] for fact in told] == ["", BodyType.EIGHT_BIT, True, True, True, "HDRS", "e"]


@pytest.mark.parametrize(
    ("content", "eight_bit", "utf8_needed"),
    [(b"Subject: \xc3\xa4\r\n\r\n", True, True), (b"\r\n\xc3\xa4\r\n", True, False), (b"\r\nplain\r\n", False, False)],
)
async def test_utf8_is_needed_only_where_it_is(
    nursery: trio.Nursery, content: bytes, eight_bit: bool, utf8_needed: bool
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN.replace(b"b.example>", b"b.example> SMTPUTF8"))
    assert await inbound.say(content + b".\r\n") == QUEUED
    facts = inbound.spool.kept[0].facts
    assert facts is not None
    assert (facts["eight_bit"], facts["utf8_needed"], facts["smtputf8"]) == (eight_bit, utf8_needed, True)


async def test_replies_to_what_one_read_brought_go_out_in_one_send(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery, kind=socket.SOCK_SEQPACKET)
    await inbound.greet()
    assert await inbound.say(BEGIN) == BEGUN
    assert await inbound.say(b"1\r\n.\r\n" + BEGIN) == QUEUED + BEGUN
    assert await inbound.say(b"2\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n") == (
        "250 2.0.0 Ok: queued as 0000000000002\n250 2.0.0 Ok\n250 2.0.0 Ok\n" + BYE
    )


async def _read_packets(inbound: Inbound, size: int) -> list[bytes]:
    """So many octets, or those up to the end, as the session has sent them."""
    packets: list[bytes] = []
    with trio.fail_after(10):
        while sum(map(len, packets)) < size and (packet := await inbound.socket.recv(1_000_000)):
            packets.append(packet)
    return packets


FLOODS = {
    "EHLO": (b"EHLO x\r\n", GREETED),
    "all that is answered without an event": (
        b"NOOP\r\nHELP\r\nVRFY x\r\nRSET\r\n",
        (
            "250 2.0.0 Ok\n214 2.0.0 RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\n"
            "252 2.5.0 cannot verify the address, but will take mail for it and try to deliver\n250 2.0.0 Ok\n"
        ),
    ),
    "some with and some without": (
        b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nVRFY x\r\nRSET\r\n",
        GREETED + "250 2.1.0 Ok\n250 2.1.5 Ok\n"
        "252 2.5.0 cannot verify the address, but will take mail for it and try to deliver\n250 2.0.0 Ok\n",
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_replies_to_a_flood_go_out_as_they_are_made(nursery: trio.Nursery, kind: str) -> None:
    """However many commands one read brings: none of them waits behind a heap of replies, and none is lost."""
    commands, replies = FLOODS[kind]
    rounds = 60_000 // len(commands)
    inbound = Inbound(nursery, kind=socket.SOCK_SEQPACKET)
    await inbound.greet()
    await inbound.send(commands * rounds + b"QUIT\r\n")
    expected = (replies * rounds + BYE).replace("\n", "\r\n").encode()
    packets = await _read_packets(inbound, len(expected))
    assert b"".join(packets) == expected
    assert max(map(len, packets)) < 16_384 + 32 * 256
    assert await inbound.read() == ""


async def test_flood_whose_end_is_the_end_of_the_connection(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(b"EHLO x\r\n" * 1000)
    inbound.socket.shutdown(socket.SHUT_WR)
    packets = await _read_packets(inbound, (len(GREETED) + GREETED.count("\n")) * 1000)
    assert b"".join(packets) == (GREETED * 1000).replace("\n", "\r\n").encode()
    assert await inbound.read() == ""


async def test_client_that_reads_no_replies_has_no_commands_taken(nursery: trio.Nursery) -> None:
    taken: list[str] = []

    def count(client: Client, event: Helo) -> Reply | None:
        taken.append(event.name)
        return None

    inbound = Inbound(nursery, pipeline=Pipeline(30, helo=[count]))
    await inbound.greet()
    inbound.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await inbound.send(b"EHLO x\r\n" * 8000)
    await trio.testing.wait_all_tasks_blocked()
    assert 0 < len(taken) < 500
    await _read_packets(inbound, (len(GREETED) + GREETED.count("\n")) * 8000)
    assert len(taken) == 8001


@pytest.mark.parametrize("commands", [b"RCPT TO:<%d@ours.example>\r\n", b"EHLO %d.example\r\n"])
async def test_others_have_their_turn_in_a_flood(nursery: trio.Nursery, commands: bytes) -> None:
    taken: list[str] = []

    def count(client: Client, event: Rcpt | Helo) -> Reply | None:
        taken.append(client.ip)
        return None

    pipeline = Pipeline(30, helo=[count], rcpt=[count])
    flood, honest = Inbound(nursery, pipeline=pipeline, ip="192.0.2.1"), Inbound(nursery, pipeline=pipeline)
    await flood.greet()
    await honest.greet()
    await flood.say(b"MAIL FROM:<a@b.example>\r\n")
    before = len(taken)
    await flood.send(b"".join(commands % number for number in range(1000)))
    await honest.send(b"EHLO honest.example\r\n")
    assert (await honest.socket.recv(1000)).startswith(b"250-mx.test")
    meanwhile = taken[before:].count("192.0.2.1")
    assert meanwhile < 500
    await trio.testing.wait_all_tasks_blocked()
    assert taken[before:].count("192.0.2.1") == 1000


async def test_message_of_one_byte_segments_arrives(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    for octet in BEGIN + b"x\r\n..y\r\n.\r\n":
        await inbound.send(bytes([octet]))
    assert await inbound.read() == BEGUN + QUEUED
    assert inbound.spool.kept[0].body == STAMP + b"x\r\n.y\r\n"


async def test_empty_message_has_only_our_stamp(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    assert await inbound.say(b".\r\n") == QUEUED
    assert inbound.spool.kept[0].body == STAMP


async def test_reply_waits_for_the_commit(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    inbound.spool.may_commit = Wake()
    await inbound.greet()
    await inbound.say(BEGIN)
    await inbound.send(b"x\r\n.\r\nNOOP\r\n")
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.WouldBlock):
        _recv_nowait(inbound)
    inbound.spool.may_commit.set()
    assert await inbound.read() == QUEUED + "250 2.0.0 Ok\n"


def _recv_nowait(inbound: Inbound) -> bytes:
    with socket.socket(fileno=socket.dup(inbound.socket.fileno())) as own:
        own.setblocking(False)
        try:
            return own.recv(1)
        except BlockingIOError:
            raise trio.WouldBlock from None


# ---- refusals


async def test_spool_that_fills_up_is_told_after_the_final_dot_and_keeps_nothing(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    inbound.spool.write_error = SpoolFullError("full")
    assert await inbound.say(b"x\r\n.\r\n" + BEGIN) == NO_ROOM + BEGUN
    inbound.spool.write_error = None
    assert await inbound.say(b"y\r\n.\r\n") == "250 2.0.0 Ok: queued as 0000000000002\n"
    assert [(message.abandoned, message.facts is None) for message in inbound.spool.messages] == [
        (True, True),
        (False, False),
    ]
    assert [(event.stage, event.reply.code, event.sender) for event in inbound.events] == [
        ("final_dot", 452, "a@b.example")
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SpoolFullError("full"), NO_ROOM),
        (SpoolDoubtError("slow"), "451 4.3.0 the message could not be stored, please try again later\n"),
    ],
)
async def test_commit_that_fails_is_not_acknowledged(nursery: trio.Nursery, error: SpoolFullError, said: str) -> None:
    inbound = Inbound(nursery)
    inbound.spool.commit_error = error
    await inbound.greet()
    await inbound.say(BEGIN)
    assert await inbound.say(b"x\r\n.\r\nNOOP\r\n") == said + "250 2.0.0 Ok\n"
    assert inbound.spool.kept == []


async def test_spool_without_room_refuses_mail_and_data(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    assert await inbound.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n") == "250 2.1.0 Ok\n250 2.1.5 Ok\n"
    inbound.spool.room = False
    assert await inbound.say(b"DATA\r\n") == NO_ROOM
    assert await inbound.say(b"BDAT 3 LAST\r\nabc") == NO_ROOM
    assert await inbound.say(b"RSET\r\nMAIL FROM:<a@b.example>\r\n") == "250 2.0.0 Ok\n" + NO_ROOM
    inbound.spool.room = True
    assert await inbound.say(b"MAIL FROM:<a@b.example>\r\n") == "250 2.1.0 Ok\n"
    assert inbound.spool.messages == []


async def test_message_refused_by_the_protocol_is_dropped_and_recorded(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    await inbound.send(LONG)
    await trio.testing.wait_all_tasks_blocked()  # until it is taken: refused in one piece, it would never be begun
    said = await inbound.say(b"x\r\ny\nz\r\n.\r\n")
    assert said.startswith("550 5.6.0 message has a bare LF")
    (message,) = inbound.spool.messages
    assert (message.abandoned, message.facts) == (True, None)
    assert [(event.stage, event.reply.code) for event in inbound.events] == [("final_dot", 550)]


async def test_short_message_refused_by_the_protocol_never_reaches_the_spool(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    await inbound.send(b"x\r\n")
    assert (await inbound.say(b"y\nz\r\n.\r\n")).startswith("550 5.6.0 message has a bare LF")
    assert inbound.spool.messages == []
    assert await inbound.say(BEGIN) == BEGUN
    assert await inbound.say(b"z\r\n.\r\n") == QUEUED
    assert [message.body for message in inbound.spool.kept] == [STAMP + b"z\r\n"]


async def test_refusals_are_recorded_with_what_they_were_about(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery, ip="203.0.113.9")
    await inbound.greet()
    await inbound.say(
        b"MAIL FROM:<bad\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@elsewhere.example>\r\n"
        b"RCPT TO:<y@ours.example> FOO=1\r\n"
    )
    assert await inbound.say(b"GET / HTTP/1.1\r\n") == ("421 4.7.0 mx.test closing the connection: that is not SMTP\n")
    assert [(event.stage, event.reply.code, event.sender, event.recipient) for event in inbound.events] == [
        ("mail", 501, "FROM:<bad", ""),
        ("rcpt", 550, "a@b.example", "x@elsewhere.example"),
        ("rcpt", 555, "a@b.example", "y@ours.example"),
        ("mail", 421, "a@b.example", ""),
    ]
    assert {(event.client_ip, event.helo) for event in inbound.events} == {("203.0.113.9", "client.example")}


async def test_hooks_are_asked_and_refuse(nursery: trio.Nursery) -> None:
    def helo(client: Client, event: Helo) -> Reply | None:
        return reply(550, "5.7.1", "bad name") if event.name == "evil" else None

    async def mail(client: Client, event: Mail) -> Reply | None:
        await trio.lowlevel.checkpoint()
        return reply(450, "4.7.1", "later") if event.reverse_path == "grey@b.example" else None

    def rcpt(client: Client, event: Rcpt) -> Reply | None:
        return reply(550, "5.1.1", f"no such user, {client.helo}") if event.local == "nobody" else None

    inbound = Inbound(nursery, pipeline=Pipeline(30, helo=[helo], mail=[mail], rcpt=[rcpt]))
    assert await inbound.read() == "220 mx.test ESMTP Postroika\n"
    assert await inbound.say(b"EHLO evil\r\nHELO c\r\n") == "550 5.7.1 bad name\n250 mx.test\n"
    assert (
        await inbound.say(
            b"MAIL FROM:<grey@b.example>\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<nobody@d.example>\r\n"
            b"RCPT TO:<c@d.example>\r\n"
        )
        == "450 4.7.1 later\n250 2.1.0 Ok\n550 5.1.1 no such user, c\n250 2.1.5 Ok\n"
    )


async def test_connection_that_a_hook_refuses_gets_no_banner(nursery: trio.Nursery) -> None:
    def connect(client: Client, event: None) -> Reply:
        return reply(554, "5.7.1", "not you")

    inbound = Inbound(nursery, pipeline=Pipeline(30, connect=[connect]))
    assert await inbound.read() == "554 5.7.1 not you\n"
    await inbound.ended.wait()
    assert [event.stage for event in inbound.events] == ["connect"]


async def test_bug_in_a_hook_is_not_hidden() -> None:
    def mail(client: Client, event: Mail) -> Reply | None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):  # of the pump, and of the nursery
        async with trio.open_nursery() as nursery:
            inbound = Inbound(nursery, pipeline=Pipeline(30, mail=[mail]))
            await inbound.greet()
            await inbound.say(b"MAIL FROM:<a@b.example>\r\n")


async def test_client_that_is_slow_to_read_gets_all_replies_once(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    inbound.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await inbound.greet()
    for _ in range(30):
        await inbound.send(b"HELP\r\n" * 100)
    await trio.testing.wait_all_tasks_blocked()
    await inbound.send(b"QUIT\r\n")
    said = ""
    while not said.endswith(BYE):
        said += await inbound.read()
    assert said == "214 2.0.0 RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\n" * 3000 + BYE


# ---- deadlines


async def test_idle_client_is_sent_away(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    began = trio.current_time()
    assert (await inbound.socket.recv(1000)).decode() == TIMED_OUT.replace("\n", "\r\n")
    await inbound.ended.wait()
    assert trio.current_time() - began == pytest.approx(LIMITS.idle_timeout_s, abs=1)


async def test_client_that_drips_a_command_gains_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    began = trio.current_time()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            await inbound.send(b"x")
            await trio.sleep(9)
    assert trio.current_time() - began == pytest.approx(LIMITS.command_timeout_s, abs=10)


@pytest.mark.parametrize(
    ("wire", "expected_s"),
    [
        (b"MAIL FROM:<a@b.example>\r\n", LIMITS.command_timeout_s),
        (BEGIN, LIMITS.data_timeout_s),
        (BEGIN + b"half", LIMITS.data_timeout_s),
        (b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 10\r\nhalf", LIMITS.data_timeout_s),
    ],
)
async def test_client_that_stops_in_a_transaction_is_sent_away(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, wire: bytes, expected_s: float
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(wire)
    began = trio.current_time()
    await inbound.ended.wait()
    assert await inbound.read() == TIMED_OUT
    assert trio.current_time() - began == pytest.approx(expected_s, abs=1)
    assert inbound.spool.kept == []
    assert all(message.abandoned for message in inbound.spool.messages)


async def test_transaction_as_a_whole_has_a_deadline(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    began = trio.current_time()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            await inbound.send(b"x" * 70 + b"\r\n")
            await trio.sleep(40)
    assert trio.current_time() - began == pytest.approx(LIMITS.transaction_timeout_s, abs=41)


async def test_client_that_never_lets_us_wait_has_that_deadline_too(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("READ_BYTES", "LARGE_READ_BYTES"):
        monkeypatch.setattr(f"postroika.pump.channel.{name}", 1)  # so that there is always more in the socket
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    began = trio.current_time()
    with trio.fail_after(2000), pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            await inbound.send(b"x" * 70 + b"\r\n")
            mock_clock.jump(1)
            await trio.lowlevel.checkpoint()
    assert trio.current_time() - began == pytest.approx(LIMITS.transaction_timeout_s, abs=41)


async def test_next_transaction_has_its_own_deadline(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    for number in range(1, 25):
        await inbound.say(BEGIN)
        assert await inbound.say(b".\r\n") == f"250 2.0.0 Ok: queued as {'0123456789abcdefghjkmnpqrst'[number]:0>13}\n"
        await trio.sleep(90)


async def test_client_that_does_not_read_its_replies_is_dropped(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    with trio.move_on_after(1):
        while True:
            await inbound.send(b"HELP\r\n" * 1000)
    began = trio.current_time()
    await inbound.ended.wait()
    assert trio.current_time() - began == pytest.approx(LIMITS.command_timeout_s, abs=2)


async def test_slow_commit_is_not_cut_short_by_the_client_s_deadlines(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    inbound.spool.may_commit = Wake()
    await inbound.greet()
    await inbound.say(BEGIN)
    await inbound.send(b".\r\n")
    await trio.sleep(1500)
    inbound.spool.may_commit.set()
    assert await inbound.read() == QUEUED


async def test_hook_that_is_too_slow_puts_off(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    async def mail(client: Client, event: Mail) -> None:
        await trio.sleep_forever()

    inbound = Inbound(nursery, pipeline=Pipeline(30, mail=[mail]))
    await inbound.greet()
    await inbound.send(b"MAIL FROM:<a@b.example>\r\n")
    await trio.sleep(31)
    assert await inbound.read() == "451 4.7.1 a check took too long, please try again later\n"


async def test_time_that_hooks_take_is_not_the_client_s(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def rcpt(client: Client, event: Rcpt) -> None:
        await trio.sleep(29)

    inbound = Inbound(nursery, pipeline=Pipeline(30, rcpt=[rcpt]))
    await inbound.greet()
    await inbound.send(b"MAIL FROM:<a@b.example>\r\n" + b"RCPT TO:<c@d.example>\r\n" * 30)
    await trio.sleep(29 * 30 + 1)
    assert await inbound.read() == "250 2.1.0 Ok\n" + "250 2.1.5 Ok\n" * 30


# ---- shutdown


async def test_shutdown_ends_an_idle_session_at_once(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    inbound.session.stop(now=False)
    assert await inbound.read() == SHUTTING_DOWN
    await inbound.ended.wait()


async def test_shutdown_lets_a_transaction_come_to_its_end(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    inbound.session.stop(now=False)
    await inbound.send(b"x\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert await inbound.say(b".\r\n") == QUEUED + SHUTTING_DOWN
    await inbound.ended.wait()
    assert len(inbound.spool.kept) == 1


@pytest.mark.parametrize("now", [False, True])
async def test_shutdown_answers_a_message_that_is_being_committed(nursery: trio.Nursery, now: bool) -> None:
    inbound = Inbound(nursery)
    inbound.spool.may_commit = Wake()
    await inbound.greet()
    await inbound.say(BEGIN)
    await inbound.send(b"x\r\n.\r\n")
    await trio.testing.wait_all_tasks_blocked()
    inbound.session.stop(now=now)
    await trio.testing.wait_all_tasks_blocked()
    inbound.spool.may_commit.set()
    assert await inbound.read() == QUEUED + SHUTTING_DOWN
    await inbound.ended.wait()
    assert len(inbound.spool.kept) == 1


async def test_shutdown_at_once_drops_an_unfinished_message(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN + LONG)
    inbound.session.stop(now=True)
    assert await inbound.read() == SHUTTING_DOWN
    await inbound.ended.wait()
    assert inbound.spool.messages[0].abandoned


async def test_cancelled_session_drops_its_message_and_closes() -> None:
    async with trio.open_nursery() as nursery:
        inbound = Inbound(nursery)
        await inbound.greet()
        await inbound.say(BEGIN + LONG)
        nursery.cancel_scope.cancel()
    assert inbound.spool.messages[0].abandoned
    assert inbound.ours.fileno() == -1


@pytest.mark.parametrize("timely", [True, False])
async def test_cancelled_session_keeps_a_message_that_is_being_committed(timely: bool) -> None:
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        inbound = Inbound(nursery)
        inbound.spool.may_commit = Wake()
        await inbound.greet()
        await inbound.say(BEGIN)
        await inbound.send(b"x\r\n.\r\n")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

        @outer.start_soon
        async def commit() -> None:
            if not timely:
                await trio.testing.wait_all_tasks_blocked()
            inbound.spool.may_commit.set()

    assert [(message.body, message.abandoned) for message in inbound.spool.kept] == [(STAMP + b"x\r\n", False)]
    assert inbound.ours.fileno() == -1


# ---- broken clients


@pytest.mark.parametrize("wire", [b"", b"EHLO c\r\n", b"EHLO c\r\n" + BEGIN + b"half", b"half a comm"])
async def test_client_that_goes_away_ends_only_its_session(nursery: trio.Nursery, wire: bytes) -> None:
    inbound = Inbound(nursery)
    await inbound.send(wire)
    inbound.socket.close()
    await inbound.ended.wait()
    assert inbound.spool.kept == []
    assert all(message.abandoned for message in inbound.spool.messages)


async def test_client_that_goes_away_after_its_dot_has_its_message_kept(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(BEGIN + b"x\r\n.\r\n")
    inbound.socket.close()
    await inbound.ended.wait()
    assert len(inbound.spool.kept) == 1


async def test_half_closed_client_is_answered(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(BEGIN + b"x\r\n.\r\n")
    inbound.socket.shutdown(socket.SHUT_WR)
    assert await inbound.read() == BEGUN + QUEUED
    await inbound.ended.wait()


async def test_client_that_is_sent_away_in_mid_sentence_can_read_why(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(b"BDAT x\r\n" + b"y" * 100_000)
    assert (await inbound.read()).startswith("501 5.5.4 syntax: BDAT")
    inbound.socket.close()
    await inbound.ended.wait()


@pytest.mark.parametrize("now", [False, True])
async def test_shutdown_while_a_client_is_given_time_to_read_ends_only_its_session(
    nursery: trio.Nursery, now: bool
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(b"BDAT x\r\n" + b"y" * 100_000)
    assert (await inbound.read()).startswith("501 5.5.4 syntax: BDAT")
    inbound.session.stop(now=now)
    await inbound.ended.wait()
    assert (await inbound.read(), inbound.ours.fileno(), inbound.spool.messages) == ("", -1, [])


async def test_client_that_is_gone_when_it_is_told_of_the_shutdown_ends_only_its_session(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    inbound.session.stop(now=True)
    inbound.socket.close()
    await inbound.ended.wait()
    assert (inbound.ours.fileno(), inbound.spool.messages, inbound.events) == (-1, [], [])
