"""Tenants are kept apart: what one of them does, sees and is told of is its own.

Tenants have two ways to the server, SMTP and the notices that it sends; the control socket, the commands and the logs
are the operator's, who names the tenant that is meant. docs/accounts.md has the list of all of these.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from postroika.signing import verify
from postroika.signing.record import read_zone
from tests.system.command import command
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink

PASSWORD = "correct horse"
IN = "235 2.7.0 authentication succeeded"
TENANTS = {"ann@shop.test": "shop", "bob@mill.test": "mill", "any@mill.test": "mill", "sue@shop2.test": "Shop"}
_CONFIG = """
[[listener]]
address = "127.0.0.1:{port}"
role = "submission"
auth_without_tls = true
[accounts]
file = "accounts.toml"
failure_delay_s = 0
[retry]
delays_s = [600]
[[dkim]]
tenant = "shop"
domain = "shop.test"
selector = "s1"
key = "shop.pem"
[[dkim]]
tenant = "mill"
domain = "mill.test"
selector = "m1"
key = "mill.pem"
[[route]]
domains = ["down.test"]
next_hop = "smtp://127.0.0.1:1"
[[route]]
domains = ["*"]
next_hop = "smtp://{sink}"
"""


class World:
    """A submission server with accounts of three tenants (two of which differ in case only), and a next hop."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.sink: OurSink = start_our_sink(path, "--refuse", "bounce*", store=True)
        stack.enter_context(self.sink.process)
        self.port = free_port()
        config = _CONFIG.format(port=self.port, sink=self.sink.address)
        self.server = Postroika(path, config, workers=1)
        for name in ("shop", "mill"):
            made = [sys.executable, "-m", "postroika", "dkim", "keygen", "-a", "ed25519", str(path / f"{name}.pem")]
            subprocess.run(made, check=True, capture_output=True, timeout=60)
        for account, tenant in TENANTS.items():
            more = ("--sender", "*", "--from", "*") if account == "any@mill.test" else ()
            added = command(self.server, "account", "add", account, "--tenant", tenant, *more, stdin=PASSWORD.encode())
            assert added.code == 0, added.err
        stack.enter_context(self.server)
        self.keys = read_zone(self.server.run("dkim", "show-dns"))

    def session(self, account: str) -> Dialogue:
        """A session of somebody who has logged in."""
        client = Dialogue(self.port, "client.test")
        assert client.say(plain(account)) == IN
        return client

    def send(self, account: str, recipient: str, content: bytes = b"Subject: x\r\n\r\nx\r\n", sender: str = "") -> str:
        """A message of an account, From itself; its id."""
        with self.session(account) as client:
            whole = f"From: {sender or account}\r\n".encode() + content
            reply = client.message(sender or account, [recipient], whole)
        assert reply.startswith("250 2.0.0 Ok: queued as "), reply
        return reply.split()[-1]

    def events(self, message: str, *kinds: str) -> list[dict[str, Any]]:
        """Those of a message, as soon as there is one."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.server.events_of(*kinds) if event["message"] == message]

        wait_until(found, f"events {kinds} of {message}", 30)
        return found()

    def queued(self, *words: str) -> list[str]:
        """The ids that the command lists."""
        listed = json.loads(self.server.run("queue", "list", "--json", *words))
        return [message["id"] for message in listed["messages"]]


def plain(name: str, acts_for: str = "", password: str = PASSWORD) -> str:
    return "AUTH PLAIN " + b64encode(f"{acts_for}\0{name}\0{password}".encode()).decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


# --- SMTP


def test_nobody_sends_as_the_other_tenant(world: World) -> None:
    with world.session("bob@mill.test") as client:
        assert client.say("MAIL FROM:<ann@shop.test>") == "550 5.7.1 this account may not use this reverse-path"
        for field in ("ann@shop.test", "Bob <bob@mill.test>, ann@shop.test", '"ann@shop.test" <ann@shop.test>'):
            client.say("MAIL FROM:<bob@mill.test>")
            client.say("RCPT TO:<you@x.test>")
            assert client.say("DATA").startswith("354")
            client.send(f"From: {field}\r\nSubject: x\r\n\r\nx\r\n".encode())
            assert client.say(".") == "550 5.7.1 this account may not use this address in From"
        # Nor does it become the other one, on a session that is its own or on a new one.
        assert client.say(plain("ann@shop.test")) == "503 5.5.1 already authenticated"
    with Dialogue(world.port, "client.test") as client:
        assert client.say(plain("bob@mill.test", acts_for="ann@shop.test"))[:3] == "535"
        assert client.say("MAIL FROM:<bob@mill.test>")[:3] == "530"


def test_nothing_can_be_asked_about_others_and_their_mail(world: World) -> None:
    kept = world.send("ann@shop.test", "secret@down.test")
    with world.session("bob@mill.test") as client:
        for verb in ("VRFY", "EXPN"):
            said = {
                client.say(f"{verb} {what}") for what in ("ann", "ann@shop.test", "no", "no@shop.test", "no@no.test")
            }
            assert len(said) == 1, said  # the same whether there is such a one or not
        for command_line in (f"ETRN #{kept}", "ETRN down.test", "ETRN @test", f"TURN {kept}", "ATRN down.test", "XADR"):
            assert client.say(command_line)[:2] == "50"
    assert kept in world.queued("--tenant", "shop")
    assert [event["attempt"] for event in world.events(kept, "deferred")] == [1]


def test_signature_of_a_tenant_is_on_its_own_mail_only(world: World) -> None:
    """One who may write as anybody gets no other tenant's key to sign with; and the key's owner does."""
    for number, account in enumerate(("any@mill.test", "ann@shop.test")):
        world.send(account, f"signed-{number}@x.test", sender="ann@shop.test")
    world.send("any@mill.test", "signed-2@x.test", sender="any@mill.test")

    def arrived() -> dict[str, bytes]:
        return {m.recipients[0]: m.content for m in world.sink.messages() if m.recipients[0].startswith("signed-")}

    wait_until(lambda: len(arrived()) == 3, "the messages", 30)
    found = {
        recipient: [(verdict.domain, verdict.passed) for verdict in verify.verify(content, world.keys.get)]
        for recipient, content in arrived().items()
    }
    assert found == {
        "signed-0@x.test": [],
        "signed-1@x.test": [("shop.test", True)],
        "signed-2@x.test": [("mill.test", True)],
    }


def test_mail_of_tenants_that_share_a_next_hop_is_not_mixed_up(world: World) -> None:
    """Also where it goes over the same connections, one message after the other."""
    sessions = {account: world.session(account) for account in ("ann@shop.test", "bob@mill.test", "sue@shop2.test")}
    sent = {}
    for number in range(10):
        for account, client in sessions.items():
            content = f"From: {account}\r\nSubject: {number}\r\n\r\nfor {account} {number}\r\n".encode()
            reply = client.message(account, [f"mixed-{number}-{account.partition('@')[0]}@x.test"], content)
            sent[reply.split()[-1]] = (account, TENANTS[account])
    for client in sessions.values():
        client.sock.close()
    for message, whose in sent.items():
        told = world.events(message, "received") + world.events(message, "delivered")
        assert {(event["account"], event["tenant"]) for event in told} == {whose}
    for message in world.sink.messages():
        if message.recipients[0].startswith("mixed-"):
            _, number, local = message.recipients[0].partition("@")[0].split("-")
            assert message.reverse_path.partition("@")[0] == local
            assert message.content.endswith(f"\r\n\r\nfor {message.reverse_path} {number}\r\n".encode())


# --- notices


def test_notice_goes_to_who_sent_the_message_and_is_its_tenants(world: World) -> None:
    failed = {account: world.send(account, f"bounce@{TENANTS[account]}.x.test") for account in TENANTS}

    def notices() -> list[Any]:
        return [message for message in world.sink.messages() if message.reverse_path == ""]

    wait_until(lambda: len(notices()) == len(failed), "the notices", 30)
    assert sorted(notice.recipients for notice in notices()) == sorted((account,) for account in TENANTS)
    for notice in notices():
        (account,) = notice.recipients
        assert failed[account].encode() in notice.content
        others = [other.encode() for other in TENANTS if other != account]
        assert [other for other in others if other in notice.content] == []

    def whose() -> dict[str, str]:
        own = [event for event in world.server.events_of("delivered") if event["sender"] == ""]
        return {event["recipient"]: event["tenant"] for event in own}

    wait_until(lambda: len(whose()) == len(TENANTS), "the events", 30)
    assert whose() == TENANTS


# --- what the operator has


def test_control_socket_and_logs_are_closed_to_everybody_else(world: World) -> None:
    for name in ("control.sock", "events.jsonl", "accounts.toml"):
        status = (world.server.path / name).stat()
        assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid()), name
    for file in world.server.spool.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file
    assert world.server.spool.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="missing peer: only root can become another user")
def test_another_user_of_the_machine_gets_no_answer(world: World) -> None:
    nobody = pwd.getpwnam("nobody")
    asked = subprocess.run(
        [
            "/usr/bin/python3", "-c",
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect_ex(sys.argv[1]) and sys.exit(13)",
            str(world.server.path / "control.sock"),
        ],
        user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[], timeout=30, check=False,
    )  # fmt: skip
    assert asked.returncode == 13


def test_filter_for_a_tenant_shows_and_takes_back_its_mail_only(world: World) -> None:
    for message in world.queued():
        world.server.run("queue", "cancel", message, "--yes")
    kept = {account: world.send(account, "late@down.test") for account in TENANTS}
    with world.server.dialogue() as client:  # a trusted client, of no tenant
        nobodys = client.message("me@x.test", ["late@down.test"], b"Subject: x\r\n\r\nx\r\n").split()[-1]
    for message in kept.values():
        world.events(message, "deferred")
    for tenant in ("shop", "mill", "Shop"):
        expected = [message for account, message in kept.items() if TENANTS[account] == tenant]
        assert world.queued("--tenant", tenant) == expected
    for tenant in ("SHOP", "sho", "shop ", "*", "shop,mill"):
        assert world.queued("--tenant", tenant) == []
    # All filters have to match: nothing of another tenant goes with it, whatever else is said.
    gone = world.server.run("queue", "cancel", "--tenant", "mill", "--destination", "down.test", "--yes", "--json")
    assert json.loads(gone)["count"] == 2
    left = [message for account, message in kept.items() if TENANTS[account] != "mill"]
    assert world.queued() == [*left, nobodys]
    for account, message in kept.items():
        if TENANTS[account] == "mill":
            assert [event["tenant"] for event in world.events(message, "cancelled")] == ["mill"]


def test_events_of_a_tenant_are_those_of_its_accounts(world: World) -> None:
    """Failed logins among them, which are nobody's where there is no such account."""
    for account in ("bob@mill.test", "ann@shop.test", "eve@mill.test"):
        with Dialogue(world.port, "wrong.test") as client:
            assert client.say(plain(account, password="wrong")).startswith("535")

    def failed() -> dict[str, str]:
        events = [event for event in world.server.events_of("auth_failed") if event["client"]["helo"] == "wrong.test"]
        return {event["account"]: event.get("tenant", "") for event in events}

    wait_until(lambda: len(failed()) == 3, "the events", 30)
    assert failed() == {"bob@mill.test": "mill", "ann@shop.test": "shop", "eve@mill.test": ""}
    for tenant in ("shop", "mill", "Shop", "SHOP"):
        lines = world.server.run("events", "tail", "-n", "1000", "--tenant", tenant, "--json").splitlines()
        found = {json.loads(line)["account"] for line in lines if "account" in json.loads(line)}
        assert found <= {account for account in TENANTS if TENANTS[account] == tenant}
        assert bool(lines) is (tenant != "SHOP")
        assert len(lines) == sum(event.get("tenant") == tenant for event in world.server.events())
    lines = world.server.run("events", "tail", "-n", "1000", "--account", "eve@mill.test", "--json").splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["auth_failed"]
