"""inbound.session in TLS: deadlines, and how it ends when the client does not play along."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.config import Listener
from postroika.pump import Wake
from postroika.tls import context
from postroika.tls.certificates import ListenerTls
from postroika.tls.layer import TlsError, TlsLayer
from tests.chains import issue, with_octets_for_names
from tests.component.secured_client import READY, Secured, greeted
from tests.component.session_words import BEGIN, BEGUN, QUEUED, SHUTTING_DOWN, TIMED_OUT
from tests.component.smtp_client import LIMITS, Inbound

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
