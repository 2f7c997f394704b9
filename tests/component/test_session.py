"""inbound.session on a socket pair: messages, and what is refused."""

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
from tests.component.session_words import BEGIN, BEGUN, BYE, LONG, NO_ROOM, QUEUED, STAMP
from tests.component.smtp_client import Inbound


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
