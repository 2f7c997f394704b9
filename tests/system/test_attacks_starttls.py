"""STARTTLS with somebody in the middle: commands and replies that are put in before the handshake, and STARTTLS that
is taken out. More of the first is in test_tls_in; docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.system.naive_server import Fault, naive_server
from tests.system.process import free_port, wait_until
from tests.system.rogue_hop import INJECTED, TRICKS, RogueHop, rogue_hop
from tests.system.segments import send_apart
from tests.system.server import Dialogue, Postroika

MESSAGE = b"Subject: secret\r\n\r\nx\r\n"
COMMANDS = b"EHLO evil.test\r\nMAIL FROM:<injected@evil.test>\r\nRCPT TO:<you@shop.test>\r\n"
HARMLESS = {b"EHLO", b"HELO", b"STAR", b"QUIT"}  # may be said in clear under every policy
POLICIES = ("required", "verify")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# --- we are the server


def inject_commands(port: int, behind: bytes, *, apart: bool) -> list[str]:
    """Say `behind` in clear behind STARTTLS; returns the codes heard in TLS after one NOOP, "" for the end."""
    with Dialogue(port, "client.test") as client:
        if apart:
            assert client.say("STARTTLS").startswith("220")
            send_apart(client.sock, [behind])
        else:
            client.send(b"STARTTLS\r\n" + behind)
            assert client.reply().startswith("220")
        with trusting().wrap_socket(client.sock) as secure, secure.makefile("rb") as lines:
            secure.sendall(b"NOOP\r\nQUIT\r\n")
            heard = []
            while (line := lines.readline()) and not line.startswith(b"221"):
                heard.append(line.decode())
    return [line[:3] for line in heard if line[3:4] != "-"]


def test_naive_server_runs_what_came_before_the_handshake(server_context: ssl.SSLContext) -> None:
    with naive_server(Fault.KEEPS_INPUT, context=server_context) as naive:
        assert inject_commands(naive.port, COMMANDS, apart=False) == ["250", "250", "250", "250"]
        assert b"MAIL FROM:<injected@evil.test>" in naive.commands


# --- we are the client


class World:
    """A server with a route to each rogue hop under each policy."""

    def __init__(self, path: Path, stack: ExitStack, authority: trustme.CA, context: ssl.SSLContext) -> None:
        (path / "ca.pem").write_bytes(authority.cert_pem.bytes())
        certificate = authority.issue_cert("localhost")
        (path / "mx.pem").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        (path / "mx.pem").chmod(0o600)
        (path / "login.toml").write_text('user = "alice"\npassword = "s3cret"\n')
        (path / "login.toml").chmod(0o600)
        self.hops: dict[tuple[str, str], RogueHop] = {}
        self.port = free_port()
        config = (
            f'[[listener]]\naddress = "127.0.0.1:{self.port}"\ntls = "starttls"\n'
            f'certificate = "{path}/mx.pem"\nkey = "{path}/mx.pem"\n'
            f'[dns]\nipv6 = "never"\n[retry]\ndelays_s = [600]\ndown_delays_s = [600]\n'
            f'[delivery]\ntls_ca = "{path}/ca.pem"\n'
        )
        ways = [(trick, policy) for trick in ("", *TRICKS) for policy in (*POLICIES, "opportunistic")]
        for trick, policy in [*ways, ("strip", "login"), ("454", "login"), ("", "login")]:
            hop = self.hops[trick, policy] = stack.enter_context(rogue_hop(trick, context))
            more = f'tls = "{policy}"' if policy != "login" else f'tls = "opportunistic"\nauth = "{path}/login.toml"'
            name = f"{trick or 'honest'}.{policy}.test"
            config += f'[[route]]\ndomains = ["{name}"]\nnext_hop = "smtp://localhost:{hop.port}"\n{more}\n'
        self.server = stack.enter_context(Postroika(path, config, workers=1))

    def outcome(self, trick: str, policy: str) -> str:
        """What becomes of a message to a hop: the type of the event."""
        recipient = f"you@{trick or 'honest'}.{policy}.test"
        with self.server.dialogue() as client:
            assert client.message("me@x.test", [recipient], MESSAGE).startswith("250")
        found: list[str] = []

        def told() -> list[str]:
            events = self.server.events_of("delivered", "deferred", "bounced")
            found[:] = [event["type"] for event in events if event["recipient"] == recipient]
            return found

        wait_until(told, f"what becomes of {recipient}", 30)
        return found[0]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA, server_context: ssl.SSLContext
) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack, authority, server_context)


def test_what_came_with_starttls_is_dropped(world: World) -> None:
    assert inject_commands(world.port, COMMANDS, apart=False) == ["250"]


def test_what_comes_in_place_of_the_handshake_ends_the_session(world: World) -> None:
    with pytest.raises(OSError, match=r"."):
        inject_commands(world.port, COMMANDS, apart=True)


def test_nobody_is_known_by_what_was_said_in_clear(world: World) -> None:
    with Dialogue(world.port, "forged.test") as client:
        assert client.say("STARTTLS").startswith("220")
        with trusting().wrap_socket(client.sock) as secure, secure.makefile("rb") as lines:
            secure.sendall(b"MAIL FROM:<a@x.test>\r\n")
            assert lines.readline() == b"503 5.5.1 send HELO or EHLO first\r\n"


def said_in_clear(hop: RogueHop) -> set[bytes]:
    return {line[:4].upper() for line in hop.in_clear}


@pytest.mark.parametrize("trick", ["strip", "strip-name", "454", "554"])
def test_naive_client_sends_in_clear_when_starttls_is_stripped(trick: str, server_context: ssl.SSLContext) -> None:
    with rogue_hop(trick, server_context) as hop:
        with smtplib.SMTP("localhost", hop.port, timeout=30) as client:
            client.ehlo()
            with contextlib.suppress(smtplib.SMTPException):  # "opportunistic"
                client.starttls(context=trusting())
            client.sendmail("me@x.test", ["you@x.test"], MESSAGE)
        assert b"MAIL" in said_in_clear(hop)


@pytest.mark.parametrize("trick", ["inject", "inject-half", "early"])
def test_naive_client_takes_replies_from_before_the_handshake(trick: str, server_context: ssl.SSLContext) -> None:
    """Who keeps one buffer over both takes the words of the one in the middle for those of the server."""
    with rogue_hop(trick, server_context) as hop, socket.create_connection(("127.0.0.1", hop.port)) as sock:
        buffer = b""

        def line_of(connection: socket.socket) -> bytes:
            nonlocal buffer
            while b"\n" not in buffer:
                buffer += connection.recv(65536)
            line, _, buffer = buffer.partition(b"\n")
            return line

        line_of(sock)
        sock.sendall(b"EHLO client.test\r\n")
        while line_of(sock)[3:4] == b"-":
            pass
        sock.sendall(b"STARTTLS\r\n")
        assert line_of(sock).startswith(b"220")
        with trusting().wrap_socket(sock) as secure:
            secure.sendall(b"EHLO client.test\r\n")
            first = line_of(secure)
            assert first[:7] == {"inject": INJECTED[:7], "inject-half": b"250-inj", "early": b"250-hop"}[trick]


@pytest.mark.parametrize("policy", [*POLICIES, "opportunistic"])
def test_hop_that_nobody_disturbs_gets_its_mail_in_tls(world: World, policy: str) -> None:
    assert world.outcome("", policy) == "delivered"
    hop = world.hops["", policy]
    assert said_in_clear(hop) <= HARMLESS
    assert b"Subject: secret\r\n" in hop.in_tls


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("policy", POLICIES)
def test_mail_that_needs_tls_waits_and_never_goes_in_clear(world: World, trick: str, policy: str) -> None:
    assert world.outcome(trick, policy) == "deferred"
    hop = world.hops[trick, policy]
    assert hop.in_clear
    assert said_in_clear(hop) <= HARMLESS
    assert b"MAIL" not in {line[:4] for line in hop.in_tls}


@pytest.mark.parametrize("trick", ["inject", "inject-half", "early"])
def test_injected_replies_end_the_session_whatever_the_policy(world: World, trick: str) -> None:
    """Nor is it a handshake that has failed, after which mail could go in clear."""
    assert world.outcome(trick, "opportunistic") == "deferred"
    hop = world.hops[trick, "opportunistic"]
    assert said_in_clear(hop) <= HARMLESS
    assert hop.in_tls == []


@pytest.mark.parametrize("trick", ["strip", "454"])
def test_passwords_wait_for_tls_even_where_mail_does_not(world: World, trick: str) -> None:
    assert world.outcome(trick, "login") == "deferred"
    assert said_in_clear(world.hops[trick, "login"]) <= HARMLESS
