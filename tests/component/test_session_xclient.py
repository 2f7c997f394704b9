"""XCLIENT in a session: who the client then is, what it may do, as whom it has logged in, and what stays as it was."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import trio

from postroika import metrics
from postroika.inbound.session import Session
from postroika.mail.reply import Reply, reply
from postroika.policy.pipeline import Client, Pipeline
from postroika.smtp.server_events import Helo
from tests.component.login_world import IN, OK, RCPT_OK, REQUIRED, TOO_LARGE, House, account, plain
from tests.component.xclient_peer import BANNER, OPEN, STRICT, Proxied, begin

pytestmark = pytest.mark.usefixtures("hashed")

BYE = "221 2.0.0 mx.test closing the connection\n"
DENIED = "550 5.7.1 relay access denied\n"
NO_ACCOUNT = "550 5.7.8 LOGIN names no account that may log in\n"
OFFERED = "250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\n"
SEND = b"MAIL FROM:<ann@shop.example>\r\nRCPT TO:<c@away.example>\r\n"


async def test_client_is_whom_xclient_names(nursery: trio.Nursery) -> None:
    house = House(nursery, rules=OPEN)
    peer = await begin(house)
    assert peer.client.trusted
    assert OFFERED in await peer.introduce(
        b"NAME=Client.example ADDR=IPV6:2001:DB8::7 PORT=99 HELO=helo.example DESTADDR=192.0.2.25 DESTPORT=2525"
    )
    client = peer.client
    assert (client.ip, client.port, client.local_ip, client.local_port) == ("2001:db8::7", 99, "192.0.2.25", 2525)
    assert (client.name, client.helo, client.proxy_ip) == ("client.example", "helo.example", "10.9.0.1")
    assert (client.known, client.trusted) == (True, False)
    assert await peer.say(SEND + b"RCPT TO:<c@ours.example>\r\nDATA\r\n") == (
        OK + DENIED + RCPT_OK + "354 End data with <CR><LF>.<CR><LF>\n"
    )
    assert await peer.say(b"x\r\n.\r\n") == "250 2.0.0 Ok: queued as 0000000000001\n"
    (message,) = house.spool.kept
    assert message.body.startswith(
        b"Received: from helo.example (client.example [IPv6:2001:db8::7])\r\n\tby mx.test (Postroika) with ESMTP id "
    )
    assert message.facts is not None
    assert (message.facts["client_ip"], message.facts["client_helo"]) == ("2001:db8::7", "helo.example")
    assert [(refusal.client_ip, refusal.helo) for refusal in house.refused] == [("2001:db8::7", "helo.example")]


async def test_protocol_of_the_client_is_in_received(nursery: trio.Nursery) -> None:
    house = House(nursery, rules=OPEN)
    peer = await begin(house)
    await peer.introduce(b"PROTO=SMTP")
    await peer.say(b"MAIL FROM:<a@b.example> SIZE=1\r\nRCPT TO:<c@ours.example>\r\nDATA\r\n")
    await peer.say(b"x\r\n.\r\n")
    await peer.introduce(b"PROTO=ESMTP", b"HELO proxy.example\r\n")
    await peer.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@ours.example>\r\nDATA\r\n")
    await peer.say(b"x\r\n.\r\n")
    assert [b"with ESMTP id" in message.body for message in house.spool.kept] == [False, True]


async def test_unknown_address_gives_no_rights(nursery: trio.Nursery) -> None:
    house = House(nursery, rules=OPEN)
    peer = await begin(house)
    await peer.introduce(b"ADDR=[UNAVAILABLE]")
    assert (peer.client.ip, peer.client.known, peer.client.trusted) == ("10.9.0.1", False, False)
    assert await peer.say(SEND) == OK + DENIED


async def test_right_of_the_peer_stays_and_what_is_not_told_stays_too(nursery: trio.Nursery) -> None:
    peer = await begin(House(nursery, rules=OPEN))
    await peer.introduce(b"ADDR=192.0.2.7 NAME=one.example PORT=1 HELO=one DESTADDR=192.0.2.25")
    assert OFFERED in await peer.introduce(b"PORT=2", b"EHLO again.example\r\n")
    client = peer.client
    assert (client.ip, client.port, client.name, client.local_ip) == ("192.0.2.7", 2, "one.example", "192.0.2.25")
    assert client.helo == "again.example"
    assert OFFERED in await peer.introduce(b"ADDR=10.1.1.1")
    assert (client.ip, client.port, client.name, client.trusted) == ("10.1.1.1", 0, "", True)


async def test_strangers_change_nothing(nursery: trio.Nursery) -> None:
    house = House(nursery, rules=OPEN)
    for ip in ("192.0.2.66", "2001:db8::66", "10.8.0.1"):
        peer = await begin(house, ip)
        before = replace(peer.client)
        assert await peer.say(b"XCLIENT ADDR=10.9.0.1 LOGIN=ann@shop.example\r\n") == (
            "550 5.7.1 XCLIENT is not for you\n"
        )
        assert peer.client == before
        assert (await peer.say(SEND)).startswith(OK)
    assert [(refusal.client_ip, refusal.stage) for refusal in house.refused if refusal.stage == "xclient"] == [
        (ip, "xclient") for ip in ("192.0.2.66", "2001:db8::66", "10.8.0.1")
    ]


async def test_whom_a_proxy_could_not_name_may_not_use_xclient(nursery: trio.Nursery) -> None:
    peer = Proxied(House(nursery, rules=OPEN))
    peer.client.known = False
    unknown = Proxied(House(nursery, rules=OPEN))
    assert "XCLIENT" in await peer.say(b"EHLO c\r\n")  # judged when the session began
    session = Session(socket.socket(), Client("10.9.0.1", known=False), STRICT, unknown.session._services)
    assert session._server.xclient == ()
    session._sock.close()


async def test_line_ends_are_mended_for_trusted_clients_only(nursery: trio.Nursery) -> None:
    peer = await begin(House(nursery, rules=OPEN))
    assert await peer.say(b"NOOP\n") == "250 2.0.0 Ok\n"
    said = await peer.say(b"XCLIENT ADDR=192.0.2.7\nNOOP\nMAIL\r\nXCLIENT ADDR=10.1.1.1\r\nNOOP\n")
    assert said == (
        BANNER + "500 5.5.2 bare LF in a command line: lines must end with CR LF\n" + BANNER + "250 2.0.0 Ok\n"
    )


async def test_what_the_client_says_reaches_no_record_as_it_is(nursery: trio.Nursery) -> None:
    house = House(nursery, rules=OPEN)
    peer = await begin(house)
    await peer.introduce(b"ADDR=192.0.2.7 HELO=a+0D+0AX-Evil:+20yes+00+1B[2J+29")
    assert peer.client.helo == "a??X-Evil: yes??[2J)"
    await peer.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@ours.example>\r\nRCPT TO:<c@away.example>\r\nDATA\r\n")
    await peer.say(b"x\r\n.\r\n")
    body = house.spool.kept[0].body
    assert body.startswith(b"Received: from a??X-Evil:?yes??[2J? ([192.0.2.7])\r\n\tby mx.test ")
    assert house.refused[0].helo == "a??X-Evil: yes??[2J)"
    for attribute in (b"NAME", b"LOGIN", b"ADDR", b"PROTO"):
        said = await peer.say(b"XCLIENT " + attribute + b"=ann+0D+0A250+20Ok\r\n")
        assert said == f"501 5.5.4 syntax: XCLIENT attribute=value ...: bad value of {attribute.decode()}\n"


# ---- logging in


async def test_login_makes_the_client_an_account(nursery: trio.Nursery) -> None:
    house = House(nursery, account(max_message_bytes=5000))
    peer = await begin(house)
    assert await peer.say(b"MAIL FROM:<ann@shop.example>\r\n") == REQUIRED
    ehlo = await peer.introduce(b"ADDR=192.0.2.7 LOGIN=Ann+40Shop.Example")
    assert "250-SIZE 5000\n" in ehlo
    assert (peer.client.account, peer.client.tenant, peer.client.trusted) == ("ann@shop.example", "shop", False)
    assert await peer.say(plain("ann@shop.example", "secret")) == "503 5.5.1 already authenticated\n"
    assert await peer.say(b"MAIL FROM:<ann@shop.example> SIZE=5001\r\n") == TOO_LARGE
    assert await peer.say(SEND) == OK + RCPT_OK
    assert house.accounts.usable("ann@shop.example") is not None
    assert house.services.logins is not None
    assert house.services.logins.sessions == {"ann@shop.example": 1}


@pytest.mark.parametrize("name", [b"bob+40shop.example", b"off+40shop.example"])
async def test_login_of_nobody_is_refused_and_nothing_changes(nursery: trio.Nursery, name: bytes) -> None:
    house = House(nursery, account(), account("off@shop.example", disabled=True))
    peer = await begin(house)
    await peer.introduce(b"ADDR=192.0.2.7 LOGIN=ann+40shop.example")
    before = replace(peer.client)
    assert await peer.say(b"XCLIENT ADDR=192.0.2.8 LOGIN=" + name + b"\r\n") == NO_ACCOUNT
    assert peer.client == before
    assert await peer.say(SEND) == OK + RCPT_OK
    assert [(refusal.stage, refusal.reply.code) for refusal in house.refused] == [("xclient", 550)]


@pytest.mark.parametrize("told", [b"ADDR=192.0.2.8", b"LOGIN=[UNAVAILABLE]", b"PORT=1"])
async def test_login_holds_for_one_client(nursery: trio.Nursery, told: bytes) -> None:
    """Of XCLIENT as well as of AUTH: whoever the next client is has not logged in."""
    house = House(nursery)
    peer = await begin(house)
    for log_in in (b"XCLIENT LOGIN=ann+40shop.example\r\nEHLO c\r\n", plain("ann@shop.example", "secret")):
        await peer.say(log_in)
        assert peer.client.account == "ann@shop.example"
        await peer.introduce(told)
        assert (peer.client.account, peer.client.tenant) == ("", "")
        assert await peer.say(b"MAIL FROM:<ann@shop.example>\r\n") == REQUIRED
    assert house.services.logins is not None
    assert house.services.logins.sessions == {}


async def test_auth_works_after_xclient_and_failures_are_those_of_the_client(nursery: trio.Nursery) -> None:
    house = House(nursery, per_ip=1)
    peer = await begin(house)
    await peer.introduce(b"ADDR=192.0.2.7")
    assert (await peer.say(plain("ann@shop.example", "wrong"))).startswith("535 5.7.8 ")
    assert (await peer.say(plain("ann@shop.example", "secret"))).startswith("454 4.7.0 ")
    reasons = [(failed.client_ip, failed.reason) for failed in house.failed]
    assert reasons == [("192.0.2.7", "wrong password; locked out"), ("192.0.2.7", "locked out: not looked at")]
    await peer.introduce(b"ADDR=192.0.2.8")
    assert await peer.say(plain("ann@shop.example", "secret")) == IN


async def test_sessions_of_an_account_are_limited_here_too(nursery: trio.Nursery) -> None:
    house = House(nursery, account(max_connections=1))
    one, two = await begin(house), await begin(house)
    await one.introduce(b"LOGIN=ann+40shop.example")
    await one.introduce(b"ADDR=192.0.2.7 LOGIN=ann+40shop.example")
    assert await two.say(b"XCLIENT LOGIN=ann+40shop.example\r\n") == (
        "454 4.7.0 too many sessions of this account at once\n"
    )
    assert await one.say(b"QUIT\r\n") == BYE
    await two.introduce(b"LOGIN=ann+40shop.example")


# ---- who judges


async def test_connection_and_name_are_judged_as_those_of_the_client(nursery: trio.Nursery) -> None:
    seen: list[tuple[str, str]] = []

    def connect(client: Client, _event: None) -> Reply | None:
        seen.append(("connect", client.ip))
        return reply(554, "5.7.1", "not you") if client.ip == "192.0.2.66" else None

    def helo(client: Client, event: Helo) -> Reply | None:
        seen.append((event.verb, event.name))
        return None

    house = House(nursery, rules=OPEN)
    peer = await begin(house, pipeline=Pipeline(30, connect=[connect], helo=[helo]))
    await peer.introduce(b"ADDR=192.0.2.7 HELO=helo.example")
    assert await peer.say(b"XCLIENT ADDR=192.0.2.66\r\nNOOP\r\n") == "554 5.7.1 not you\n"
    assert seen == [
        ("connect", "10.9.0.1"),
        ("EHLO", "proxy.example"),
        ("connect", "192.0.2.7"),
        ("EHLO", "helo.example"),
        ("connect", "192.0.2.66"),
    ]
    assert [(refusal.client_ip, refusal.stage) for refusal in house.refused] == [("192.0.2.66", "connect")]


async def test_session_is_counted_as_one_of_the_client(nursery: trio.Nursery) -> None:
    moves: list[tuple[str, str]] = []

    def move(old_ip: str, new_ip: str) -> Reply | None:
        moves.append((old_ip, new_ip))
        return reply(421, "4.7.0", "too many") if new_ip == "192.0.2.66" else None

    before = metrics.XCLIENTS.value
    peer = await begin(House(nursery, rules=OPEN), move=move)
    await peer.introduce(b"PORT=1")
    await peer.introduce(b"ADDR=192.0.2.7")
    await peer.introduce(b"ADDR=192.0.2.7")
    await peer.introduce(b"ADDR=[UNAVAILABLE]")
    assert await peer.say(b"XCLIENT ADDR=192.0.2.66\r\n") == "421 4.7.0 too many\n"
    assert moves == [("10.9.0.1", "192.0.2.7"), ("192.0.2.7", "10.9.0.1"), ("10.9.0.1", "192.0.2.66")]
    assert peer.session.ip == "10.9.0.1"
    assert metrics.XCLIENTS.value - before == 4
