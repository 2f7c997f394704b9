"""inbound.session: what is said in the clear around STARTTLS is forgotten, and never run."""

from __future__ import annotations

import os
import socket

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.tls.certificates import ListenerTls
from tests.component.secured_client import BANNER, OFFERED, READY, SECURED, Secured
from tests.component.session_words import BEGIN, BEGUN, BYE, QUEUED
from tests.component.smtp_client import Inbound


async def test_what_was_said_in_the_clear_is_forgotten(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    await inbound.read()
    await inbound.say(b"EHLO liar.example\r\nMAIL FROM:<a@b.example> SIZE=9\r\nRCPT TO:<c@d.example>\r\n")
    assert await inbound.say(b"STARTTLS\r\n") == READY
    client = Secured(inbound)
    await client.shake_hands()
    assert (inbound.client.helo, inbound.client.mail, inbound.client.recipients) == ("", None, [])
    assert await client.say(b"RCPT TO:<e@d.example>\r\nMAIL FROM:<a@b.example> SIZE=9\r\n") == (
        "503 5.5.1 send HELO or EHLO first\n" * 2
    )
    assert await client.say(b"EHLO client.example\r\n") == SECURED
    assert await client.say(b"RCPT TO:<e@d.example>\r\n") == "503 5.5.1 need MAIL command\n"
    assert await client.say(BEGIN + b"x\r\n.\r\n") == BEGUN + QUEUED
    (message,) = inbound.spool.kept
    assert message.facts is not None
    assert [recipient.address for recipient in message.facts["recipients"]] == ["c@d.example"]


STARTTLS = b"STARTTLS\r\n"
INJECTED = STARTTLS + b"RSET\r\n" + BEGIN + b"injected\r\n.\r\n"


async def injected(inbound: Inbound, pieces: list[bytes], raw: list[socket.socket]) -> None:
    """Send the pieces, so that what is behind STARTTLS is there before the session looks; then all is as without it."""
    assert await inbound.read() == BANNER
    assert await inbound.say(b"EHLO client.example\r\n") == OFFERED
    wire = socket.socket(fileno=os.dup(inbound.socket.fileno()))
    raw.append(wire)
    for piece in pieces:
        wire.send(piece)
        if len(piece) < len(STARTTLS):
            await trio.testing.wait_all_tasks_blocked()
    assert await inbound.read() == READY
    client = Secured(inbound)
    await client.shake_hands()
    assert await client.say(b"NOOP\r\n") == "250 2.0.0 Ok\n"
    assert await client.say(b"EHLO client.example\r\n") == SECURED
    assert await client.say(BEGIN) == BEGUN
    assert await client.say(b"honest\r\n.\r\nQUIT\r\n") == QUEUED + BYE
    (message,) = inbound.spool.kept
    assert message.body.endswith(b"\r\nhonest\r\n")
    assert inbound.events == []


async def test_commands_that_came_with_starttls_are_never_run(
    nursery: trio.Nursery, certificates: ListenerTls, raw: list[socket.socket]
) -> None:
    await injected(Inbound(nursery, tls="offered", certificates=certificates), [INJECTED], raw)


@pytest.mark.parametrize("cut", range(1, len(STARTTLS)))
async def test_commands_that_came_with_the_end_of_starttls_are_never_run(
    nursery: trio.Nursery, certificates: ListenerTls, raw: list[socket.socket], cut: int
) -> None:
    await injected(Inbound(nursery, tls="offered", certificates=certificates), [INJECTED[:cut], INJECTED[cut:]], raw)


@pytest.mark.parametrize("cut", [*range(len(STARTTLS), len(INJECTED), 7), len(STARTTLS) + 1, len(INJECTED) - 1])
async def test_commands_that_came_behind_starttls_are_never_run(
    nursery: trio.Nursery, certificates: ListenerTls, raw: list[socket.socket], cut: int
) -> None:
    """Each piece is a read of its own."""
    inbound = Inbound(nursery, tls="offered", certificates=certificates, kind=socket.SOCK_SEQPACKET)
    await injected(inbound, [INJECTED[:cut], INJECTED[cut:]], raw)


async def test_commands_in_place_of_a_handshake_are_never_run(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    before = metrics.TLS_SESSIONS.value
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    await inbound.read()
    await inbound.say(b"EHLO client.example\r\n")
    assert await inbound.say(b"STARTTLS\r\n") == READY
    await inbound.send(b"EHLO client.example\r\n" + BEGIN + b"x\r\n.\r\n")
    await inbound.ended.wait()
    assert b"250" not in await inbound.socket.recv(1000)  # an alert
    assert (inbound.spool.messages, metrics.TLS_SESSIONS.value) == ([], before)
    (event,) = inbound.events
    assert (event.stage, event.reply.code, event.helo, event.client_ip) == ("tls", 421, "client.example", "10.0.0.1")
    assert event.reply.text.startswith("the TLS handshake failed: ")


async def test_client_that_floods_us_behind_starttls_is_left(
    nursery: trio.Nursery, certificates: ListenerTls, raw: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroika.inbound.wire._MOST_DROPPED_BYTES", 1000)
    inbound = Inbound(nursery, tls="offered", certificates=certificates, kind=socket.SOCK_SEQPACKET)
    await inbound.read()
    await inbound.say(b"EHLO client.example\r\n")
    wire = socket.socket(fileno=os.dup(inbound.socket.fileno()))
    raw.append(wire)
    wire.send(b"STARTTLS\r\n")
    for _ in range(20):
        wire.send(b"NOOP\r\n" * 50)
    await inbound.ended.wait()
    assert inbound.spool.messages == []
