"""Submission as real clients do it: swaks with each kind of AUTH, smtplib, aiosmtplib, gsasl; and those who may not."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import scramp

from tests.system.peers import RunSwaks
from tests.system.process import program, run, wait_until
from tests.system.server import Dialogue
from tests.system.submission import IN, PASSWORD, World, credentials

HEADER = "From: Ann <ann@shop.test>\r\nTo: you@x.test\r\nSubject: x\r\n\r\n"
WRONG = "535 5.7.8 authentication credentials are invalid"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "ANY"])
@pytest.mark.parametrize("way", ["starttls", "implicit", "clear"])
def test_swaks(world: World, swaks: RunSwaks, mechanism: str, way: str) -> None:
    tls = {"starttls": "--tls", "implicit": "--tlsc", "clear": "--hide-informational"}[way]
    sender = f"{mechanism.lower()}-{way}@shop.test"
    transcript = swaks(
        f"127.0.0.1:{getattr(world, way)}", tls, "--auth", mechanism, "--auth-user", "ann@shop.test",
        "--auth-password", PASSWORD, "--header", f"From: {sender}", sender=sender, to="you@x.test",
    )  # fmt: skip
    assert (transcript.returncode, IN in transcript.replies) == (0, True), transcript.text
    message = world.arrived(sender)
    with_ = "ESMTPA" if way == "clear" else "ESMTPSA"
    assert f" with {with_} id " in message.get_all("Received")[-1]
    for kind in ("received", "delivered"):
        event = world.event(kind, sender=sender)
        assert (event["account"], event["tenant"]) == ("ann@shop.test", "shop")


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "DIGEST-MD5", "CRAM-SHA1", "NTLM"])
def test_swaks_with_what_we_do_not_offer(world: World, swaks: RunSwaks, mechanism: str) -> None:
    transcript = swaks(
        f"127.0.0.1:{world.clear}", "--auth", mechanism, "--auth-user", "ann@shop.test", "--auth-password", PASSWORD
    )
    assert transcript.returncode != 0
    assert IN not in transcript.replies


def test_swaks_with_a_wrong_password(world: World, swaks: RunSwaks) -> None:
    for user in ("ann@shop.test", "nobody@shop.test"):
        transcript = swaks(
            f"127.0.0.1:{world.starttls}", "--tls", "--auth", "PLAIN", "--auth-user", user, "--auth-password", "wrong"
        )
        assert transcript.returncode == 28
        assert transcript.replies[-2] == WRONG


def test_auth_is_not_offered_in_the_clear(world: World) -> None:
    with Dialogue(world.starttls, "me.test") as client:
        assert "AUTH" not in client.ehlo
        assert client.say(f"AUTH PLAIN {credentials('ann@shop.test')}") == "538 5.7.11 AUTH is offered under TLS only"
        said = "530 5.7.0 STARTTLS first: authentication is required, and not offered in the clear"
        assert client.say("MAIL FROM:<ann@shop.test>") == said
    with Dialogue(world.clear, "me.test") as client:
        assert client.ehlo.endswith("\n250 AUTH SCRAM-SHA-256 PLAIN LOGIN")


def test_smtplib_and_what_is_added_to_a_message(world: World) -> None:
    with smtplib.SMTP("localhost", world.starttls, timeout=30) as client:
        client.starttls(context=world.context)
        client.login("Ann@Shop.Test", PASSWORD)
        client.sendmail("smtplib@shop.test", ["you@x.test"], HEADER + "x\r\n")
    message = world.arrived("smtplib@shop.test")
    assert message["Date"] is not None
    assert message["Message-ID"].endswith("@mx.postroika.test>")
    assert message.get_payload() == "x\r\n"


def test_smtplib_with_tls_at_once(world: World) -> None:
    with smtplib.SMTP_SSL("localhost", world.implicit, timeout=30, context=world.context) as client:
        client.login("ann@shop.test", PASSWORD)
        client.sendmail("ssl@shop.test", ["you@x.test"], HEADER + "x\r\n")
    assert " with ESMTPSA id " in world.arrived("ssl@shop.test")["Received"]


def test_aiosmtplib(world: World) -> None:
    world.account("add", "aio@shop.test", password="plain old words")
    world.taken_in("3 accounts")

    async def send() -> None:
        async with world.aio_client("starttls") as client:
            await client.login("aio@shop.test", "plain old words")
            content = HEADER.replace("Ann <ann@shop.test>", "aio@shop.test")
            await client.sendmail("aio@shop.test", ["you@x.test"], content + "x\r\n")

    asyncio.run(send())
    assert world.arrived("aio@shop.test")["From"] == "aio@shop.test"
    world.account("disable", "aio@shop.test")
    wait_until(lambda: _refuses(world, "aio@shop.test", "plain old words"), "the account to be disabled", 20)
    world.account("remove", "aio@shop.test")


def _refuses(world: World, name: str, password: str) -> bool:
    with Dialogue(world.clear, "me.test") as client:
        said = client.say(f"AUTH PLAIN {credentials(name, password)}")
    assert said in {IN, WRONG}
    return said == WRONG


@pytest.mark.parametrize(("password", "good"), [(PASSWORD, True), ("wrong", False)])
def test_gsasl_with_scram(world: World, password: str, good: bool) -> None:
    # In the clear; in TLS it is in test_submission_clients.
    result = run(
        [
            program("gsasl", "gsasl"), "--client", "--smtp", "--no-starttls", "--connect", f"localhost:{world.clear}",
            "--mechanism", "SCRAM-SHA-256", "--authentication-id", "ann@shop.test",
            "--password", password,
        ],
        within_s=60,
    )  # fmt: skip
    assert (IN in result.stdout, WRONG in result.stdout) == (good, not good), result.stdout


@pytest.mark.parametrize("binding", ["own", "foreign"])
def test_scram_that_is_bound_to_its_connection(world: World, binding: str) -> None:
    context = world.context
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # tls-unique is not for TLS 1.3
    with smtplib.SMTP_SSL("localhost", world.implicit, timeout=30, context=context) as client:
        assert client.ehlo()[1].endswith(b"\nAUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN")
        assert isinstance(client.sock, ssl.SSLSocket)
        unique = client.sock.get_channel_binding("tls-unique") if binding == "own" else b"of a man in the middle"
        scram = scramp.ScramClient(
            ["SCRAM-SHA-256-PLUS"], "ann@shop.test", PASSWORD, channel_binding=("tls-unique", unique)
        )
        first = b64encode(scram.get_client_first().encode()).decode()
        code, text = client.docmd("AUTH", f"SCRAM-SHA-256-PLUS {first}")
        assert code == 334
        scram.set_server_first(b64decode(text).decode())
        code, text = client.docmd(b64encode(scram.get_client_final().encode()).decode())
        if binding == "own":
            scram.set_server_final(b64decode(text).decode())
            assert (code, client.docmd("")[0]) == (334, 235)
        else:
            assert code == 535


def test_no_binding_no_plus(world: World) -> None:
    with smtplib.SMTP_SSL("localhost", world.implicit, timeout=30, context=world.context) as client:
        assert client.sock.version() == "TLSv1.3"
        assert client.ehlo()[1].endswith(b"\nAUTH SCRAM-SHA-256 PLAIN LOGIN")


@pytest.mark.parametrize(
    ("sender", "from_field", "said"),
    [
        ("ann@other.test", "", "550 5.7.1 this account may not use this reverse-path"),
        ("ann@shop.test", "ceo@bank.test", "550 5.7.1 this account may not use this address in From"),
        ("ann@shop.test", "ann@shop.test, ceo@bank.test", "550 5.7.1 this account may not use this address in From"),
        ("", "ceo@bank.test", "550 5.7.1 this account may not use this address in From"),
        (
            "ann@shop.test",
            "ann@shop.test\r\nSender: ceo@bank.test",
            "550 5.7.1 this account may not use this address in Sender",
        ),
    ],
)
def test_account_cannot_be_somebody_else(world: World, sender: str, from_field: str, said: str) -> None:
    with Dialogue(world.clear, "me.test") as client:
        assert client.say(f"AUTH PLAIN {credentials('ann@shop.test')}") == IN
        reply = client.say(f"MAIL FROM:<{sender}>")
        if from_field:
            assert reply == "250 2.1.0 Ok"
            client.say("RCPT TO:<you@x.test>")
            client.say("DATA")
            client.send(f"From: {from_field}\r\n\r\nx\r\n".encode())
            reply = client.say(".")
        assert reply == said


def test_tenants_are_told_apart_in_events(world: World) -> None:
    with Dialogue(world.clear, "me.test") as client:
        assert client.say(f"AUTH PLAIN {credentials('bob@mill.test')}") == IN
        assert client.say("MAIL FROM:<ann@shop.test>").startswith("550 5.7.1 ")
        client.message("bob@mill.test", ["mill@x.test"], b"From: bob@mill.test\r\n\r\nx\r\n")
    assert world.event("delivered", tenant="mill")["sender"] == "bob@mill.test"
    refusal = world.event("rejected", tenant="mill")
    assert (refusal["account"], refusal["sender"]) == ("bob@mill.test", "ann@shop.test")


def test_failed_logins_are_events_without_passwords(world: World) -> None:
    with Dialogue(world.clear, "guess.test") as client:
        assert client.say(f"AUTH PLAIN {credentials('nobody@shop.test', 'geheim123')}") == WRONG
        assert client.say(f"AUTH PLAIN {credentials('ann@shop.test', 'geheim123')}") == WRONG

    def told() -> list[dict[str, Any]]:
        return [event for event in world.server.events_of("auth_failed") if event["client"]["helo"] == "guess.test"]

    wait_until(lambda: len(told()) == 2, "two events", 30)
    assert [(event["account"], event["reason"]) for event in told()] == [
        ("nobody@shop.test", "no such account"),
        ("ann@shop.test", "wrong password"),
    ]
    assert "geheim123" not in world.server.event_log.read_text() + world.server.output()
    assert "auth_failed" in world.server.run("events", "tail", "-n", "1000", "--type", "auth_failed")
    figures = world.server.metrics()
    assert figures['postroika_logins_total{result="failed"}'] >= 2


def test_mail_goes_on_while_passwords_are_checked(world: World) -> None:
    """Hashing is not done on the loop: a command is answered in far less time than the queue of hashes takes."""
    guesser = []
    for _ in range(24):
        sock = socket.create_connection(("127.0.0.1", world.clear), timeout=30)
        sock.sendall(f"EHLO g\r\nAUTH PLAIN {credentials('nobody', 'x')}\r\n".encode())
        guesser.append(sock)
    try:
        with world.server.dialogue() as client:
            begin = time.perf_counter()
            for _ in range(10):
                assert client.say("NOOP") == "250 2.0.0 Ok"
            took = time.perf_counter() - begin
        assert took < 0.5
    finally:
        for sock in guesser:
            sock.close()
