"""inbound.session in TLS: what is dropped, what is said, and how it ends when the client does not play along."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from postroika import metrics
from postroika.config import Listener
from postroika.mail.reply import Reply, reply
from postroika.policy.pipeline import Client, Pipeline
from postroika.pump import Wake
from postroika.smtp.server_events import Helo
from postroika.tls import context
from postroika.tls.certificates import ListenerTls
from postroika.tls.facts import TlsFacts
from postroika.tls.layer import TlsError, TlsLayer
from tests.chains import issue, with_octets_for_names
from tests.component.smtp_client import GREETED, LIMITS, Inbound

CA = trustme.CA()
BANNER = "220 mx.test ESMTP Postroika\n"
OFFERED = GREETED.replace("250-PIPELINING", "250-STARTTLS\n250-PIPELINING")
SECURED = GREETED.replace("250 LIMITS", "250-LIMITS") + "250 REQUIRETLS\n"
READY = "220 2.0.0 ready to start TLS\n"
BEGIN = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
BEGUN = "250 2.1.0 Ok\n250 2.1.5 Ok\n354 End data with <CR><LF>.<CR><LF>\n"
QUEUED = "250 2.0.0 Ok: queued as 0000000000001\n"
BYE = "221 2.0.0 mx.test closing the connection\n"
TIMED_OUT = "421 4.4.2 timeout: closing the connection\n"
SHUTTING_DOWN = "421 4.3.2 the service is shutting down, please try again\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> ListenerTls:
    path = tmp_path_factory.mktemp("tls")
    leaf = CA.issue_cert("mx.test")
    leaf.cert_chain_pems[0].write_to_path(str(path / "mx.pem"))
    leaf.private_key_pem.write_to_path(str(path / "mx.key"))
    return ListenerTls(
        Listener(address="127.0.0.1:25", tls="starttls", certificate=f"{path}/mx.pem", key=f"{path}/mx.key")
    )


@pytest.fixture
def raw() -> Iterator[list[socket.socket]]:
    """Sockets to be closed."""
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


class Secured:
    """The client's end of TLS over the connection of an Inbound."""

    def __init__(self, inbound: Inbound, trusted: Path | None = None, certificate: Path | None = None) -> None:
        made = context.client_context(verify=True)
        CA.configure_trust(made)
        if trusted is not None:
            made.load_verify_locations(trusted)
        if certificate is not None:
            made.load_cert_chain(certificate)
        self.inbound = inbound
        self.socket = inbound.socket
        self.layer = TlsLayer(made, server_side=False, server_name="mx.test")

    async def shake_hands(self) -> None:
        while not self.layer.shake_hands():
            await self.socket.send(self.layer.take_output())
            self.layer.feed(await self.socket.recv(1 << 20))
        await self.socket.send(self.layer.take_output())
        await trio.testing.wait_all_tasks_blocked()

    def sealed(self, wire: bytes) -> bytes:
        self.layer.write(wire)
        return self.layer.take_output()

    async def send(self, wire: bytes) -> None:
        await self.socket.send(self.sealed(wire))

    async def read(self) -> str:
        """What the session has said by the time that it waits for more; "" at its end."""
        said = b""
        while not said:
            await trio.testing.wait_all_tasks_blocked()
            try:
                self.layer.feed(await self.socket.recv(1 << 20))
            except ConnectionResetError:
                self.layer.feed(b"")
            while piece := self.layer.read():
                said += piece
            if piece == b"":
                break
        return said.decode().replace("\r\n", "\n")

    async def say(self, wire: bytes) -> str:
        await self.send(wire)
        return await self.read()


async def secured(inbound: Inbound) -> Secured:
    """After STARTTLS and the handshake."""
    assert await inbound.read() == BANNER
    assert await inbound.say(b"EHLO client.example\r\n") == OFFERED
    assert await inbound.say(b"STARTTLS\r\n") == READY
    client = Secured(inbound)
    await client.shake_hands()
    return client


async def greeted(inbound: Inbound) -> Secured:
    """After EHLO in TLS, too."""
    client = await secured(inbound)
    assert await client.say(b"EHLO client.example\r\n") == SECURED
    return client


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
            f"Received: from client.example ([10.0.0.1])\r\n\t(using TLSv1.3 with cipher {facts.cipher})\r\n"
            "\tby mx.test (Postroika) with ESMTPS id 0000000000001\r\n"
            "\tfor <c@d.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\nSubject: x\r\n\r\n.\r\n"
        ).encode()
    )
    assert message.facts is not None
    assert (message.facts["tls"], message.facts["client_helo"]) == (f"TLSv1.3 {facts.cipher}", "client.example")
    assert inbound.client.tls == TlsFacts("TLSv1.3", facts.cipher, "mx.test")
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


# ---- nothing said in the clear counts


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
    monkeypatch.setattr("postroika.inbound.session._MOST_DROPPED_BYTES", 1000)
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


# ---- nothing stays in the layer


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


# ---- deadlines


@pytest.mark.parametrize("tls", ["offered", "active"])
async def test_handshake_has_a_deadline(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, certificates: ListenerTls, tls: str
) -> None:
    inbound = Inbound(nursery, tls="offered" if tls == "offered" else "active", certificates=certificates)
    if tls == "offered":
        await inbound.read()
        await inbound.say(b"EHLO client.example\r\n")
        await inbound.say(b"STARTTLS\r\n")
    began = trio.current_time()
    hello = Secured(inbound)
    hello.layer.shake_hands()
    await inbound.send(hello.layer.take_output()[:50])
    await inbound.ended.wait()
    assert trio.current_time() - began == pytest.approx(LIMITS.tls_handshake_timeout_s, abs=1)
    assert await inbound.read() == ""  # nothing in the clear
    assert [(event.stage, str(event.reply)) for event in inbound.events] == [
        ("tls", "421 4.7.0 the TLS handshake took too long")
    ]


async def test_client_that_drips_its_handshake_gains_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="active", certificates=certificates)
    began = trio.current_time()
    hello = Secured(inbound)
    hello.layer.shake_hands()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for octet in hello.layer.take_output():
            await inbound.send(bytes([octet]))
            await trio.sleep(1)
    assert trio.current_time() - began == pytest.approx(LIMITS.tls_handshake_timeout_s, abs=2)


async def test_idle_client_is_told_in_tls(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    began = trio.current_time()
    await inbound.ended.wait()
    assert trio.current_time() - began == pytest.approx(LIMITS.idle_timeout_s, abs=1)
    assert (await client.read(), await client.read(), client.layer.truncated) == (TIMED_OUT, "", False)


async def test_client_that_drips_a_record_gains_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    began = trio.current_time()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for octet in client.sealed(b"NOOP " + b"x" * 1000 + b"\r\n"):
            await inbound.send(bytes([octet]))
            await trio.sleep(9)
    assert trio.current_time() - began == pytest.approx(LIMITS.idle_timeout_s, abs=10)


async def test_client_that_stops_in_a_transaction_is_told_in_tls(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    assert await client.say(BEGIN + b"half") == BEGUN
    began = trio.current_time()
    await inbound.ended.wait()
    assert trio.current_time() - began == pytest.approx(LIMITS.data_timeout_s, abs=1)
    assert await client.read() == TIMED_OUT
    assert inbound.spool.kept == []


# ---- ends


@pytest.mark.parametrize("now", [False, True])
async def test_shutdown_is_told_in_tls(nursery: trio.Nursery, certificates: ListenerTls, now: bool) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    inbound.session.stop(now=now)
    assert (await client.read(), await client.read(), client.layer.truncated) == (SHUTTING_DOWN, "", False)
    await inbound.ended.wait()


@pytest.mark.parametrize("now", [False, True])
async def test_shutdown_in_a_handshake_says_nothing(
    nursery: trio.Nursery, certificates: ListenerTls, now: bool
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    await inbound.read()
    await inbound.say(b"EHLO client.example\r\n")
    assert await inbound.say(b"STARTTLS\r\n") == READY
    inbound.session.stop(now=now)
    assert await inbound.read() == ""
    await inbound.ended.wait()
    assert inbound.events == []


async def test_message_that_is_being_committed_is_answered(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    inbound.spool.may_commit = Wake()
    client = await greeted(inbound)
    await client.say(BEGIN)
    await client.send(b"x\r\n.\r\n")
    await trio.testing.wait_all_tasks_blocked()
    inbound.session.stop(now=True)
    await trio.testing.wait_all_tasks_blocked()
    inbound.spool.may_commit.set()
    assert await client.read() == QUEUED + SHUTTING_DOWN
    assert len(inbound.spool.kept) == 1


@pytest.mark.parametrize("how", ["close_notify", "end", "reset"])
@pytest.mark.parametrize("wire", [b"", BEGIN + b"half", b"half a comm"])
async def test_client_that_goes_away_ends_only_its_session(
    nursery: trio.Nursery, certificates: ListenerTls, how: str, wire: bytes
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    if wire:
        await client.send(wire)
    if how == "close_notify":
        client.layer.shut_down()
        await inbound.send(client.layer.take_output())
    elif how == "end":
        inbound.socket.shutdown(socket.SHUT_WR)
    else:
        inbound.socket.close()
    await inbound.ended.wait()
    assert inbound.spool.kept == []
    assert all(message.abandoned for message in inbound.spool.messages)
    assert inbound.events == []


async def test_message_cut_in_a_chunk_by_a_false_end_is_no_message(
    nursery: trio.Nursery, certificates: ListenerTls
) -> None:
    """Whoever stands between may cut the connection, but neither complete a message nor go on with one."""
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    await client.say(BEGIN.replace(b"DATA\r\n", b""))
    assert await client.say(b"BDAT 4\r\nhalf") == "250 2.0.0 Ok\n"
    await inbound.send(b"BDAT 4 LAST\r\nfake")
    await inbound.ended.wait()
    assert inbound.spool.kept == []
    with pytest.raises(TlsError):
        await client.read()  # an alert


async def test_client_that_leaves_in_the_handshake_is_recorded(
    nursery: trio.Nursery, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="active", certificates=certificates)
    client = Secured(inbound)
    client.layer.shake_hands()
    await inbound.send(client.layer.take_output()[:100])
    inbound.socket.shutdown(socket.SHUT_WR)
    await inbound.ended.wait()
    assert [(event.stage, event.reply.text) for event in inbound.events] == [
        ("tls", "the TLS handshake failed: the connection was closed in the middle of the handshake")
    ]


async def test_client_certificate_that_cannot_be_read_ends_that_session_alone(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    before = metrics.TLS_SESSIONS.value
    root = issue("root", authority=True)
    leaf = issue("client", root, more=[(with_octets_for_names(b"\xff"), False)]).write(tmp_path / "client.pem")
    ours = issue("mx.test", root, "mx.test").write(tmp_path / "mx.pem")
    listener = Listener(
        address="127.0.0.1:25",
        tls="implicit",
        certificate=str(ours),
        key=str(ours),
        client_certificates="request",
        client_ca=str(root.write(tmp_path / "root.pem")),
    )
    inbound = Inbound(nursery, tls="active", certificates=ListenerTls(listener))
    client = Secured(inbound, root.write(tmp_path / "root.pem"), leaf)
    await client.shake_hands()
    await inbound.ended.wait()
    (event,) = inbound.events
    assert (event.stage, event.reply.code) == ("tls", 421)
    assert event.reply.text.startswith("the TLS handshake failed: its certificate cannot be read: 'utf-8' codec")
    assert metrics.TLS_SESSIONS.value == before


async def test_client_that_only_looks_whether_we_are_there_is_not(
    nursery: trio.Nursery, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="active", certificates=certificates)
    inbound.socket.shutdown(socket.SHUT_WR)
    await inbound.ended.wait()
    assert (inbound.events, await inbound.read()) == ([], "")


async def test_client_that_does_not_trust_us_is_recorded(nursery: trio.Nursery, certificates: ListenerTls) -> None:
    inbound = Inbound(nursery, tls="active", certificates=certificates)
    made = context.client_context(verify=True)  # trusts nobody
    made.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 it learns it only after the handshake
    client = Secured(inbound)
    client.layer = TlsLayer(made, server_side=False, server_name="mx.test")
    with pytest.raises(TlsError, match="certificate verify failed"):
        await client.shake_hands()
    await inbound.send(client.layer.take_output())
    await inbound.ended.wait()
    assert [(event.stage, event.reply.text) for event in inbound.events] == [
        ("tls", "the TLS handshake failed: tlsv1 alert unknown ca")
    ]


async def test_name_of_a_server_that_is_no_name_is_no_bug(
    nursery: trio.Nursery, certificates: ListenerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_over: list[type[BaseException] | None] = []
    monkeypatch.setattr("sys.unraisablehook", lambda failure: passed_over.append(failure.exc_type))
    inbound = Inbound(nursery, tls="active", certificates=certificates)
    client = Secured(inbound)
    client.layer.shake_hands()
    await inbound.send(client.layer.take_output().replace(b"mx.test", b"\xff\xfe.\xfdx!!"))
    await inbound.ended.wait()
    assert [event.stage for event in inbound.events] == ["tls"]
    assert passed_over == [UnicodeDecodeError]


async def test_client_that_is_sent_away_in_mid_sentence_can_read_why(
    nursery: trio.Nursery, certificates: ListenerTls
) -> None:
    inbound = Inbound(nursery, tls="offered", certificates=certificates)
    client = await greeted(inbound)
    await client.send(b"BDAT x\r\n" + b"y" * 50_000)
    assert (await client.read()).startswith("501 5.5.4 syntax: BDAT")
    inbound.socket.close()
    await inbound.ended.wait()
