"""inbound.session in TLS: what is told of it, what its rules are, and that nothing stays in the layer."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import trio
import trio.testing

from postroika import metrics
from postroika.config import Listener
from postroika.mail.reply import Reply, reply
from postroika.policy.pipeline import Client, Pipeline
from postroika.smtp.server_events import Helo
from postroika.tls.certificates import ListenerTls
from postroika.tls.facts import TlsFacts
from tests.chains import issue
from tests.component.secured_client import BANNER, READY, SECURED, Secured, greeted, secured
from tests.component.session_words import BEGIN, BEGUN, BYE, QUEUED
from tests.component.smtp_client import Inbound


async def test_message_after_starttls_bears_its_facts(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    before = metrics.TLS_SESSIONS.value
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    assert await client.say(BEGIN) == BEGUN
    assert await client.say(b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n") == QUEUED + BYE
    assert (await client.read(), client.layer.truncated) == ("", False)  # with close_notify
    await inbound.ended.wait()
    (message,) = inbound.spool.kept
    facts = client.layer.facts
    assert (
        message.body
        == (
            "Received: from client.example ([10.0.0.1])\r\n"
            f"\t(using TLSv1.3 with cipher {facts.cipher}, SNI mx.test)\r\n"
            "\tby mx.test (Postroika) with ESMTPS id 0000000000001\r\n"
            "\tfor <c@d.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\nSubject: x\r\n\r\n.\r\n"
        ).encode()
    )
    assert message.facts is not None
    assert (message.facts["tls"], message.facts["client_helo"]) == (f"TLSv1.3 {facts.cipher}", "client.example")
    assert inbound.client.tls == TlsFacts("TLSv1.3", facts.cipher, "mx.test")
    assert message.events == [repr(inbound.client.tls).encode()]
    assert (inbound.events, metrics.TLS_SESSIONS.value - before) == ([], 1)


async def test_message_that_requires_tls_is_kept_so(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    assert await client.say(BEGIN.replace(b">\r\n", b"> REQUIRETLS\r\n", 1)) == BEGUN
    assert await client.say(b"Subject: x\r\n\r\n.\r\n") == QUEUED
    (message,) = inbound.spool.kept
    assert message.facts is not None
    assert message.facts["requiretls"] is True


async def test_tls_from_the_first_octet(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    seen: list[tuple[str, bool]] = []

    def connect(client: Client, event: None) -> None:
        seen.append(("connect", client.tls is not None))

    def helo(client: Client, event: Helo) -> None:
        seen.append(("helo", client.tls is not None))

    pipeline = Pipeline(30, connect=[connect], helo=[helo])
    inbound = Inbound(nursery, tls="active", certificates=certificates, pipeline=pipeline)
    client = Secured(inbound)
    await client.shake_hands()
    assert await client.read() == BANNER
    assert await client.say(b"EHLO client.example\r\n") == SECURED
    assert await client.say(b"STARTTLS\r\nQUIT\r\n") == "503 5.5.1 TLS has begun already\n" + BYE
    assert (await client.read(), client.layer.truncated) == ("", False)
    assert seen == [("connect", True), ("helo", True)]


async def test_hooks_learn_of_tls_after_starttls(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    def helo(client: Client, event: Helo) -> Reply | None:
        return None if client.tls is None else reply(550, "5.7.1", f"not with {client.tls.version}")

    inbound = Inbound(nursery, tls="offered", certificates=certificates, pipeline=Pipeline(30, helo=[helo]))
    client = await secured(inbound)
    assert await client.say(b"EHLO client.example\r\n") == "550 5.7.1 not with TLSv1.3\n"


async def test_connection_that_a_hook_refuses_is_told_so_in_tls(
    nursery: trio.Nursery, certificates: ListenerTls
) -> None:
    def connect(client: Client, event: None) -> Reply:
        return reply(554, "5.7.1", "not you")

    inbound = Inbound(nursery, tls="active", certificates=certificates, pipeline=Pipeline(30, connect=[connect]))
    client = Secured(inbound)
    await client.shake_hands()
    assert await client.read() == "554 5.7.1 not you\n"
    await inbound.ended.wait()


async def test_large_message_that_comes_at_once_is_taken_to_its_end(
    nursery: trio.Nursery, certificates: ListenerTls, raw: list[socket.socket]
) -> None:
    """Six records in one read, and then nothing more: no plaintext may wait for the socket."""
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    body = b"0123456789" * 7 + b"\r\n"
    body *= 90_000 // len(body)
    wire = socket.socket(fileno=os.dup(inbound.socket.fileno()))
    raw.append(wire)
    everything = client.sealed(BEGIN + body + b".\r\nNOOP\r\nQUIT\r\n")
    assert wire.send(everything) == len(everything)
    assert await client.read() == BEGUN + QUEUED + "250 2.0.0 Ok\n" + BYE
    assert inbound.spool.kept[0].body.endswith(body)


async def test_replies_in_many_records_come_in_order(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    records = [client.sealed(BEGIN), client.sealed(b"x\r\n.\r\n"), client.sealed(BEGIN), client.sealed(b"y\r\n.\r\n")]
    await inbound.send(b"".join(records))
    assert await client.read() == BEGUN + QUEUED + BEGUN + QUEUED.replace("1\n", "2\n")


async def test_octet_by_octet(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    for octet in client.sealed(BEGIN + b"x\r\n..y\r\n.\r\n"):
        await inbound.send(bytes([octet]))
    assert await client.read() == BEGUN + QUEUED
    assert inbound.spool.kept[0].body.endswith(b"x\r\n.y\r\n")


async def test_first_words_that_come_with_the_end_of_the_handshake_are_heard(
    nursery: trio.Nursery, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    await inbound.read()
    await inbound.say(b"EHLO client.example\r\n")
    assert await inbound.say(b"STARTTLS\r\n") == READY
    client = Secured(inbound)
    while not client.layer.shake_hands():
        await inbound.send(client.layer.take_output())
        client.layer.feed(await inbound.socket.recv(1 << 20))
    await inbound.send(client.layer.take_output() + client.sealed(b"EHLO client.example\r\n"))
    assert await client.read() == SECURED


async def test_handshake_octet_by_octet(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    inbound = Inbound(nursery, tls="active", certificates=certificates)
    client = Secured(inbound)
    while not client.layer.shake_hands():
        for octet in client.layer.take_output():
            await inbound.send(bytes([octet]))
        client.layer.feed(await inbound.socket.recv(1 << 20))
    for octet in client.layer.take_output():
        await inbound.send(bytes([octet]))
    assert await client.read() == BANNER


async def test_client_that_is_slow_to_read_gets_all_replies(
    nursery: trio.Nursery, certificates: ListenerTls, raw: list[socket.socket]
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    inbound.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = await greeted(inbound)
    for _ in range(30):
        await client.send(b"HELP\r\n" * 100)
    await trio.testing.wait_all_tasks_blocked()
    await client.send(b"QUIT\r\n")
    said = ""
    while not said.endswith(BYE):
        said += await client.read()
    assert said == "214 2.0.0 RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\n" * 3000 + BYE


async def test_certificate_of_a_client_is_told_in_what_is_recorded(nursery: trio.Nursery, tmp_path: Path) -> None:
    root = issue("root", authority=True)
    trusted = root.write(tmp_path / "root.pem")
    ours = issue("mx.test", root, "mx.test").write(tmp_path / "mx.pem")
    leaf = issue('evil" (verified)\r\nX: y', root).write(tmp_path / "client.pem")
    listener = Listener(
        address="127.0.0.1:25",
        tls="implicit",
        certificate=str(ours),
        key=str(ours),
        client_certificates="request",
        client_ca=str(trusted),
    )
    inbound = Inbound(nursery, tls="active", certificates=ListenerTls(listener))
    client = Secured(inbound, trusted, leaf)
    await client.shake_hands()
    await client.say(b"EHLO client.example\r\n")
    await client.say(b"MAIL FROM:<a@b.example\r\n")
    assert await client.say(BEGIN) == BEGUN
    assert await client.say(b"Subject: x\r\n\r\n.\r\n") == QUEUED
    cipher = client.layer.facts.cipher
    facts = TlsFacts("TLSv1.3", cipher, "mx.test", 'evil" (verified)\r\nX: y', verified=True)
    assert [(event.stage, event.tls) for event in inbound.events] == [("mail", facts)]
    (message,) = inbound.spool.kept
    assert message.events == [repr(facts).encode()]
    assert message.body.startswith(
        f"Received: from client.example ([10.0.0.1])\r\n\t(using TLSv1.3 with cipher {cipher}, SNI mx.test\r\n"
        '\t client certificate "evil? ?verified???X: y" verified)\r\n\tby mx.test '.encode()
    )
