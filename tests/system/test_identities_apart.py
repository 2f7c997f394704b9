"""Whom we are to a next hop, and under which policy, is one for each connection and for each session that is resumed.

Many routes lead to one host, by one name and at one address, each as somebody else or under another policy. The host,
OpenSSL's end of it, notes what it sees.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.system.noting_hop import Noted, NotingHop, noting_hop
from tests.system.server import Postroika

MESSAGE = b"Subject: x\r\n\r\nx\r\n"
# The routes: what they ask for, the certificate that they show, and who logs in.
ROUTES = {
    "none": ("none", "", ""),
    "opportunistic": ("opportunistic", "", ""),
    "required": ("required", "", ""),
    "verify": ("verify", "", ""),
    "one": ("verify", "one.client.test", ""),
    "two": ("verify", "two.client.test", ""),
    "alice": ("verify", "", "alice"),
    "bob": ("verify", "", "bob"),
    "alice-required": ("required", "", "alice"),
    "alice-one": ("verify", "one.client.test", "alice"),
}
ROUNDS = 3


class World:
    """A server with all the routes, and the host that they lead to.

    Args:
        idle_s: how long a connection waits for more mail.
    """

    def __init__(self, path: Path, stack: ExitStack, idle_s: int) -> None:
        authority = trustme.CA()
        (path / "ca.pem").write_bytes(authority.cert_pem.bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        self.hop: NotingHop = stack.enter_context(noting_hop(context))
        config = (
            f'[dns]\nipv6 = "never"\n[delivery]\ntls_ca = "{path}/ca.pem"\nconnection_idle_s = {idle_s}\n'
            "max_connections_per_site = 1\ninitial_connections_per_site = 1\n"
        )
        for name in ("one.client.test", "two.client.test"):
            issued = authority.issue_cert(name, common_name=name)
            (path / f"{name}.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
            (path / f"{name}.pem").chmod(0o600)
        for name in ("alice", "bob"):
            (path / f"{name}.toml").write_text(f'user = "{name}"\npassword = "s3cret"\n')
            (path / f"{name}.toml").chmod(0o600)
        for route, (policy, certificate, login) in ROUTES.items():
            config += f'[[route]]\ndomains = ["{route}.test"]\ntls = "{policy}"\n'
            config += f'next_hop = "smtp://localhost:{self.hop.port}"\n'
            config += f'certificate = "{path}/{certificate}.pem"\n' if certificate else ""
            config += f'auth = "{path}/{login}.toml"\n' if login else ""
        self.server = stack.enter_context(Postroika(path, config, workers=1))
        self._sent = 0

    def send(self, route: str) -> None:
        """One message, until it is there."""
        with self.server.dialogue() as client:
            assert client.message("s@x.test", [f"{self._sent}@{route}.test"], MESSAGE).startswith("250")
        self._sent += 1
        self.server.wait_for_events(self._sent, "delivered")

    def connections(self) -> list[Noted]:
        """Those over which mail came."""
        return [noted for noted in self.hop.connections if noted.recipients]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _route(noted: Noted) -> str:
    """The one route whose mail came over a connection."""
    (route,) = {recipient.rpartition("@")[2].removesuffix(".test") for recipient in noted.recipients}
    return route


def _seen(noted: Noted) -> tuple[bool, str, str]:
    return noted.secure, noted.certificate, noted.login


EXPECTED = {route: (policy != "none", certificate, login) for route, (policy, certificate, login) in ROUTES.items()}


def test_sessions_are_resumed_as_the_same_and_never_as_somebody_else(tmp_path: Path, stack: ExitStack) -> None:
    world = World(tmp_path, stack, idle_s=0)
    for _ in range(ROUNDS):
        for route in ROUTES:
            world.send(route)
    noted = world.connections()
    assert [_route(one) for one in noted] == [*ROUTES] * ROUNDS
    assert {_route(one): _seen(one) for one in noted} == EXPECTED
    # Each route's first handshake is a whole one, though the host has sessions of all others; the later ones are not.
    assert [one.resumed for one in noted[: len(ROUTES)]] == [False] * len(ROUTES)
    again = {_route(one): one.resumed for one in noted[len(ROUTES) :]}
    assert again == {route: route != "none" for route in ROUTES}


def test_idle_connections_are_used_as_the_same_and_never_as_somebody_else(tmp_path: Path, stack: ExitStack) -> None:
    world = World(tmp_path, stack, idle_s=60)
    for _ in range(ROUNDS):
        for route in ROUTES:
            world.send(route)
    noted = world.connections()
    assert {_route(one): _seen(one) for one in noted} == EXPECTED
    assert [len(one.recipients) for one in noted] == [ROUNDS] * len(ROUTES)
